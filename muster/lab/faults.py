"""What is to go wrong, said in advance: one list of faults for every store and chain of a bench run.

    script = Script([Fault("error", "store.put", "*.seal", who="aggregator-0", count=2)])

fails the leader's first two attempts to put a seal. `muster.lab.faulty` has the wrappers that ask the script; it
counts what fired, so that a test can show that its fault happened, and every request, so that builds can be compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["error", "hang", "slow", "lost", "missing", "damaged", "truncated"]

BYTES = ("store.get", "store.get_range", "store.download")
LOOKS = (*BYTES, "store.head", "store.list")
STORES = ("store.put", "store.put_if_absent", "store.upload", "store.delete")
CHAIN_READS = (
    "chain.origin", "chain.head", "chain.next_block", "chain.final", "chain.block", "chain.beacon", "chain.snapshot",
    "chain.anchors",
)  # fmt: skip
CHAIN_WRITES = ("chain.register", "chain.commit", "chain.set_weights")
OPERATIONS = (*STORES, *LOOKS, *CHAIN_READS, *CHAIN_WRITES)

BEFORE: tuple[Kind, ...] = ("error", "hang", "slow")
"""Kinds that fire when the request is made; the others do once it has been answered."""

REACH: dict[Kind, tuple[str, ...]] = {
    "error": OPERATIONS,
    "hang": OPERATIONS,
    "slow": OPERATIONS,
    "lost": (*STORES, *CHAIN_WRITES),
    "missing": LOOKS,
    "damaged": BYTES,
    "truncated": BYTES,
}
"""The operations that each kind can befall."""

_VARIABLE = re.compile(r"[0-9a-f]{8,}")
_NUMBER = re.compile(r"/?\d+$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which requests go wrong. `operation`, `key`, `who` and `owner` are globs (`*`, `?`, `[…]`).

    `kind`: `error` fails at once and nothing has happened · `hang` fails when the deadline is over (a request to the
    chain has none, and waits until it is cancelled) · `slow` gives the true answer after `seconds`, or fails when the
    deadline is over: a peer that drips · `lost` does what was asked and fails · `missing` finds nothing where something
    is · `damaged` flips a bit of the bytes read · `truncated` reads only half of them.

    `operation` is one of `OPERATIONS`. `key` is the object's key (of `list`, the prefix); for a chain see
    `muster.lab.faulty`. `who` is the participant that asks, `owner` the name of the bucket that is asked. With `start`,
    only ranges that begin at that byte or later: a payload, and not the head before it.

    It fires while every limit allows it: `count` times; for `blocks` blocks from the first time on; from the height
    `from_block` on; below the height `until_block`. Without a limit it fires always.
    """

    kind: Kind
    operation: str = "*"
    key: str = "*"
    who: str = "*"
    owner: str = "*"
    count: int | None = None
    blocks: int | None = None
    until_block: int | None = None
    seconds: float = 0.0
    start: int = 0
    from_block: int = 0

    def __post_init__(self) -> None:
        if not any(fnmatchcase(operation, self.operation) for operation in REACH[self.kind]):
            raise ValueError(f"nothing that is {self.operation!r} can be {self.kind}")
        if (self.seconds > 0) != (self.kind == "slow"):
            raise ValueError("a slow fault has seconds, and only a slow one")

    def concerns(self, request: Request) -> bool:
        """Whether it can befall this request."""
        return (
            request.operation in REACH[self.kind]
            and fnmatchcase(request.operation, self.operation)
            and fnmatchcase(request.key, self.key)
            and fnmatchcase(request.who, self.who)
            and fnmatchcase(request.owner, self.owner)
            and request.start >= self.start
        )


class Request(NamedTuple):
    """One call of a store or a chain (whose owner is "chain"); `start` is where a range begins."""

    who: str
    owner: str
    operation: str
    key: str
    start: int = 0


class Asked(NamedTuple):
    """What requests are counted by; `sort` is the kind of key, such as `submissions.sub`."""

    who: str
    operation: str
    sort: str


@lru_cache(4096)
def sort_of(key: str) -> str:
    """The kind of a key: an object's folder and ending, without run id, round and digest; a chain's without numbers."""
    first, *rest = _VARIABLE.sub("*", key).split("/")
    if first != "*" or not rest:
        return _NUMBER.sub("", key)
    return rest[0] + (f".{rest[-1].rpartition('.')[2]}" if "." in rest[-1] else "")


class Script:
    """Decides what befalls each request; one for all participants of a run, used from one event loop."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        """Where several faults can befall one request, the first of them that is not used up does.

        Raises:
            ValueError: the same fault twice; it would be counted as one.
        """
        self.faults = tuple(faults)
        if len(set(self.faults)) < len(self.faults):
            raise ValueError("a fault stands in the script twice; give it a count")
        self.fired: Counter[Fault] = Counter()
        """How often each has happened."""
        self.requests: Counter[Asked] = Counter()
        """How often who has asked for what."""
        self._began: dict[Fault, int] = {}

    def count(self, request: Request) -> None:
        """Note a request."""
        self.requests[Asked(request.who, request.operation, sort_of(request.key))] += 1

    def before(self, request: Request, height: int) -> Fault | None:
        """What befalls a request as it is made, at the height of the chain; counted as fired."""
        return self._take(request, height, True)

    def after(self, request: Request, height: int) -> Fault | None:
        """What befalls the answer of a request that has succeeded; counted as fired."""
        return self._take(request, height, False)

    def unfired(self) -> list[Fault]:
        """Faults that never happened: a test that expects something of them shows nothing."""
        return [fault for fault in self.faults if not self.fired[fault]]

    def asked(self, who: str = "*", operation: str = "*", sort: str = "*") -> int:
        """How many requests there were, by globs."""
        return sum(
            count
            for asked, count in self.requests.items()
            if fnmatchcase(asked.who, who) and fnmatchcase(asked.operation, operation) and fnmatchcase(asked.sort, sort)
        )

    def _take(self, request: Request, height: int, before: bool) -> Fault | None:
        for fault in self.faults:
            if (fault.kind in BEFORE) == before and fault.concerns(request) and self._allowed(fault, height):
                self.fired[fault] += 1
                self._began.setdefault(fault, height)
                return fault
        return None

    def _allowed(self, fault: Fault, height: int) -> bool:
        begun = self._began.get(fault, height)
        return (
            (fault.count is None or self.fired[fault] < fault.count)
            and (fault.blocks is None or height < begun + fault.blocks)
            and (fault.until_block is None or height < fault.until_block)
            and height >= fault.from_block
        )
