"""Hellos: each participant says on start what it runs, and where it is if it has committed only a pointer to that.

Nothing here decides anything: a hello that is missing, damaged or boastful changes no round.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from muster.kernels import VERSIONS
from muster.protocol import paths, wire
from muster.protocol.errors import WireError
from muster.protocol.spec import RunSpec
from muster.protocol.storage import Store
from muster.protocol.wire import Hello
from muster.protocol.wire.envelope import FORMAT

VERSION = importlib.metadata.version("muster-network")
"""The release that is installed; read once, because it is looked up on disk."""

DEADLINE = 10.0
"""Seconds for one hello."""


def make_hello(run_id: bytes, public: bytes, round_: int, roles: Iterable[str], location: str = "") -> Hello:
    """What a participant of this release says of itself; of where it is, only where that is not what it commits."""
    return Hello(
        run_id=run_id,
        public=public,
        round=round_,
        software=f"muster {VERSION}",
        formats=(FORMAT,),
        codecs=VERSIONS,
        runs=(run_id,),
        prefixes=wire.PREFIXES,
        roles=tuple(sorted(roles)),
        location=location,
    )


async def read_hello(store: Store, run_id: bytes, public: bytes, deadline: float = DEADLINE) -> Hello:
    """The hello in a peer's bucket.

    Raises:
        StorageError: there is none, or it is not to be had.
        WireError: it is not valid, or (`hello_signer`) somebody else's.
    """
    data = await store.get(paths.hello(run_id), max_bytes=wire.MAX_HELLO_BYTES, deadline=deadline)
    hello, _ = wire.decode_hello(data, run_id)
    if hello.public != public:
        raise WireError("hello_signer", "the hello in this bucket is another hotkey's")
    return hello


def incompatibility(hello: Hello, spec: RunSpec) -> str | None:
    """Why who says this cannot take part in a run of `spec` with this release, None where nothing speaks against it."""
    if FORMAT not in hello.formats:
        return f"it reads the wire formats {list(hello.formats)}, not {FORMAT}"
    if spec.sparse.codec not in hello.codecs:
        return f"it reads the codecs {list(hello.codecs)}, not {spec.sparse.codec}"
    return None
