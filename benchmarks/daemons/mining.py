"""A miner of either build, alone with a chain and folders: it does rounds as its daemon does, which this opens for it.

The run is a miniature but for its model. θ stays what it is at genesis: taking records is not a miner's own work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module as part
from pathlib import Path
from typing import Any

from blake3 import blake3
from daemons.shapes import shape
from torch import Tensor
from two_builds import of, roster_of

STEPS = 2
"""Inner steps of a round, each of one window: what there is to send is then no mere sign."""


class Mining:
    """One life of a miner; each `round` is the next one's whole work, from training to the published key."""

    def __init__(self, millions: float, folder: Path) -> None:
        """Lay the run out in a folder and join it."""
        self._runner = asyncio.Runner()
        self._before = not Path("muster/protocol").exists()
        self.steps = 0.0
        """Processor seconds that inner steps took so far."""
        builders = part("run_builders")
        made = builders.template(model=shape(millions), inner={"steps": STEPS, "batch": 1})
        roster = of("muster.testnet.roster:Roster").of(0, 1, 1, {})
        stage = builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, roster)
        self._operator, self._member = roster_of(stage).members
        self.miner = self._runner.run(self._join(stage, folder))
        trainer = self.miner._trainer if self._before else self.miner._engine
        trainer._step = self._timed(trainer._step)

    @property
    def theta(self) -> list[Tensor]:
        """θ's tensors."""
        replica = self.miner.replica
        return list(replica.theta if self._before else replica._theta)

    def round(self) -> None:
        """Train, make the submission durable, put it, show its key for a seal, and be done with the round."""
        self._runner.run(self._round())

    async def _join(self, stage: Any, folder: Path) -> Any:
        """The miner, with its state in a file."""
        chain = of("muster.protocol.chain.virtual:VirtualChain")(roster_of(stage).chain_genesis(16))
        for member in (self._operator, self._member):
            await chain.register(member.identity)
        journal = of("muster.node.telemetry.journal:Journal")(folder / "journal.jsonl")
        buckets = of("muster.protocol.storage.locations:DirectoryBuckets")(folder / "buckets")
        where = f"dir:{self._member.name}"
        context = of("muster.node.context:Context")(self._member.identity, chain, buckets, where, journal)
        history = of("muster.protocol.spec.history:SpecHistory").of(stage.spec)
        tip, replica = await of("muster.node.ledger.bootstrap:bootstrap")(history, context)
        inner, make = of("muster.node.miner.inner"), of("muster.node.miner.miner:Miner")
        state, spec = folder / "state" / "memory.safetensors", tip.spec
        uid = (await chain.snapshot()).by_hotkey()[self._member.hotkey].uid
        last = uid if self._before else inner.LocalEngine(spec.model, spec.inner)
        return make(context, tip, replica, stage.text, state, last)

    def _timed(self, step: Callable[..., float]) -> Callable[..., float]:
        def timed(*arguments: Any) -> float:
            began = time.process_time()
            loss = step(*arguments)
            self.steps += time.process_time() - began
            return loss

        return timed

    async def _round(self) -> None:
        miner = self.miner
        await miner.train()
        if self._before:
            await miner.publish_key(self._seal(miner._memory.pending.submission, early=()))
            await miner._settle(accepted=True)  # as its record's coming has it do
        else:
            reader, wire = part("muster.node.ledger.reader"), part("muster.protocol.wire")
            seal = self._seal(miner.made.submission)
            data = wire.encode_seal(seal, self._operator.identity)
            head = await miner.context.chain.head()
            found = await miner.choose_seal([reader.FoundSeal(seal, wire.digest_of(data), data)], head)
            await miner.publish_key(found)
            await miner.stop_training()
        miner._tip = self._next(miner.tip)

    def _seal(self, submission: bytes, **more: Any) -> Any:
        """A seal by the leader that lists this submission."""
        wire, tip = of("muster.protocol.wire"), self.miner.tip
        decode = wire.decode if self._before else wire.decode_submission
        signed, _ = decode(submission, tip.run_id)
        leader, heads = tip.leader(0), ((self.miner.public, signed.digest),)
        return wire.Seal(
            run_id=tip.run_id,
            leader=leader,
            round=tip.round,
            parent=tip.parent,
            turn=0,
            block=tip.opening.open,
            headers=heads,
            **more,
        )

    @staticmethod
    def _next(tip: Any) -> Any:
        """The ledger with the round after the open one open, with beacons of its own."""
        number, opening = tip.round + 1, tip.opening

        def beacon(last: Any) -> Any:
            return replace(last, value=blake3(last.value).digest())

        after = replace(
            opening,
            round=number,
            base_round=number,
            assign=beacon(opening.assign),
            possess=beacon(opening.possess),
        )
        return replace(tip, opening=after)
