"""The bucket of a peer that has committed only a pointer to its location: whoever asks it for something finds it first.

It is found on the first request and by it, within that request's deadline: so who hangs, or has no hello there, is in
nobody's way but its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from muster.node.hello import DEADLINE, read_hello
from muster.protocol.errors import ObjectMissing, StorageError, WireError
from muster.protocol.storage import Buckets, ForwardingStore, Store
from muster.protocol.storage.pointer import Pointer

T = TypeVar("T")


class PointedStore(ForwardingStore):
    """Every call goes to the bucket that the hello of `public` at `pointer` names, once that has been read."""

    def __init__(self, buckets: Buckets, pointer: Pointer, run_id: bytes, public: bytes) -> None:
        """Raises:
        StorageError: the bootstrap is no location that can be opened.
        """
        super().__init__(buckets.bucket(pointer.bootstrap))
        self._buckets = buckets
        self._pointer = pointer
        self._run_id = run_id
        self._public = public
        self._found = False
        self._locations = [pointer.bootstrap]
        self._finding = asyncio.Lock()

    async def _forward(self, operation: str, key: str, deadline: float, call: Callable[[float], Awaitable[T]]) -> T:  # noqa: ARG002
        clock = asyncio.get_running_loop().time
        until = clock() + deadline
        if not self._found:
            try:
                async with asyncio.timeout_at(until):
                    await self._find(min(deadline, DEADLINE))
            except TimeoutError:
                raise StorageError(
                    f"the hello at {self._pointer.bootstrap} did not come within {deadline:g} s"
                ) from None
        return await call(max(until - clock(), 0.0))

    async def _find(self, deadline: float) -> None:
        """Read the hello; of several requests at a time one does it, and the others wait for that."""
        async with self._finding:
            if self._found:
                return
            shown = self._pointer.bootstrap
            try:
                hello = await read_hello(self._store, self._run_id, self._public, deadline)
            except ObjectMissing:  # that is no word about what was asked for
                raise StorageError(f"there is no hello at {shown}, which would say where the bucket is") from None
            except WireError as error:
                raise StorageError(f"the hello at {shown} is not valid: {error}") from error
            if not self._pointer.names(hello.location):
                raise StorageError(f"the hello at {shown} does not name the location that stands on chain")
            self._store = self._buckets.bucket(hello.location)
            self._locations.append(hello.location)
            self._found = True

    @property
    def locations(self) -> frozenset[str]:
        """Where buckets were opened for it: that of the hello, and the one that it names once that is known."""
        return frozenset(self._locations)

    async def close(self) -> None:
        """Both buckets are their opener's to close."""
        return


def open_committed(buckets: Buckets, committed: str, run_id: bytes, public: bytes) -> Store:
    """The bucket of a peer who has committed this.

    Raises:
        StorageError: not a location this kind of run can open, or a pointer to a hello at such a one.
    """
    pointer = Pointer.parse(committed)
    return buckets.bucket(committed) if pointer is None else PointedStore(buckets, pointer, run_id, public)


def locations(committed: str, store: Store) -> frozenset[str]:
    """Where buckets were opened for who has committed this, with what `open_committed` gave for it."""
    return store.locations if isinstance(store, PointedStore) else frozenset((committed,))
