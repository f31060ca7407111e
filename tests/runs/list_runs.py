"""Runs that several aggregators lead in turn, finished, and the means to look at them and to spoil them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from run_builders import MAX_BYTES, Stage

from muster.audit import Auditor, AuditReport, FaultClass
from muster.history.explain.gather import find_case
from muster.history.story import Story, tell
from muster.history.story.gather import read_round
from muster.lab.simulator import SimulatedRun
from muster.node.directory import Directory
from muster.protocol import wire
from muster.protocol.chain.base import AnchorSeen
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage import Store
from muster.protocol.wire import Record

ROUNDS = 6
TERM = 2
"""Rounds after which the next aggregator leads."""

BESIDE = 3
"""The round in which somebody lies, where somebody does."""


@dataclass(frozen=True, slots=True)
class Case:
    """A finished run, and the means to spoil it."""

    stage: Stage
    run: SimulatedRun

    @property
    def operators(self) -> list[str]:
        return [member.name for member in self.stage.roster.operators]

    def bucket(self, name: str) -> Store:
        return self.run.buckets.bucket(f"mem:{name}")

    def audit(self, chain: VirtualChain | None = None, first_round: int | None = None) -> AuditReport:
        auditor = Auditor(self.stage.run, chain or self.run.chain, self.run.buckets, lambda _line: None)
        return asyncio.run(auditor.audit(first_round))

    def story(self, round_: int | None, chain: VirtualChain | None = None) -> Story:
        chain, history = chain or self.run.chain, self.stage.run.history
        return tell(asyncio.run(read_round(history, chain, Directory(chain, self.run.buckets), round_)), [])

    def pay(self, chain: VirtualChain | None = None) -> object:
        """What a miner's pay in the last round is explained from."""
        chain, miner = chain or self.run.chain, self.stage.member("miner-0").hotkey
        return asyncio.run(find_case(self.stage.run.history, chain, Directory(chain, self.run.buckets), miner)).judged

    @property
    def anchors(self) -> tuple[AnchorSeen, ...]:
        return asyncio.run(self.run.chain.anchors(0))

    def anchors_of(self, round_: int) -> list[AnchorSeen]:
        return [seen for seen in self.anchors if seen.anchor.round == round_]

    def showing(self, anchors: Sequence[AnchorSeen], *, remembers: bool = True) -> VirtualChain:
        """The chain with other anchors."""
        chain = copy.copy(self.run.chain)
        chain._anchors = list(anchors)
        chain.remembers = remembers
        return chain

    @property
    def newest_only(self) -> VirtualChain:
        """The chain without its memory of anchors."""
        newest = {seen.hotkey: seen for seen in self.anchors}
        return self.showing(sorted(newest.values(), key=lambda seen: (seen.block, seen.index)), remembers=False)

    def key(self, kind: str, round_: int) -> str:
        """The name of the one object of a round among the `seals`, `records` or `bundles`."""
        prefix = f"{self.run_id.hex()}/{kind}/{round_:08d}-"
        (key,) = {key for name in self.operators for key in self.everything_of(name) if key.startswith(prefix)}
        return key

    @property
    def run_id(self) -> bytes:
        return self.run.spec.run_id()

    def read(self, name: str, key: str) -> bytes | None:
        if asyncio.run(self.bucket(name).head(key)) is None:
            return None
        return asyncio.run(self.bucket(name).get(key, max_bytes=MAX_BYTES))

    def record(self, round_: int) -> Record:
        data = self.read("operator-0", self.key("records", round_))
        assert data is not None
        return wire.decode_record(data, self.run_id, len(layout_of(self.run.spec.model).shapes))[0]

    def signer(self, public: bytes) -> Identity:
        return self.stage.member(self.stage.name_of(hotkey_of(public))).identity

    @contextmanager
    def changed(self, objects: dict[tuple[str, str], bytes | None]) -> Iterator[None]:
        """Inside, objects (of a bucket's owner, by name) have other bytes (None: they are gone)."""
        before = {at: self.read(*at) for at in objects}
        self._set(objects)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, objects: dict[tuple[str, str], bytes | None]) -> None:
        for (name, key), data in objects.items():
            bucket = self.bucket(name)
            asyncio.run(bucket.delete(key) if data is None else bucket.put(key, data))

    def everything_of(self, name: str) -> list[str]:
        return [info.key for info in asyncio.run(self.bucket(name).list())]


def right(case: Case, report: AuditReport) -> bool:
    """Whether the ledger was replayed whole and found without a fault."""
    return (report.of(FaultClass.LEDGER), report.state_roots, report.closed) == ([], case.run.state_roots, True)
