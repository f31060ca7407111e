"""A miner of either build, alone with a chain and folders: it does rounds as its daemon does; this opens them for it.

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
from torch import Tensor
from two_builds import of

from daemons.shapes import shape
from daemons.units import of_shapes

STEPS = 2
"""Inner steps of a round, each of one window: what there is to send is then no mere sign."""


def lay_out(millions: float, folder: Path) -> Path:
    """Lay a run out for one miner; its folder. Whoever measures a miner's memory has another process do it."""
    builders = part("run_builders")
    made = builders.template(model=shape(millions), inner={"steps": STEPS, "batch": 1})
    roster = of("muster.testnet.roster:Roster").of(0, 1, 1, {})
    stage = builders.lay_out(folder / "run", builders.write_text(folder / "text"), made, roster)
    return Path(stage.run.path)


class Mining:
    """One life of a miner; each `round` is the next one's whole work, from training to the published key."""

    def __init__(self, folder: Path) -> None:
        """Join the run in a folder."""
        self._runner = asyncio.Runner()
        self._before = not Path("muster/protocol").exists()
        self.steps = 0.0
        """Processor seconds that inner steps took so far."""
        self.miner = self._runner.run(self._join(of("muster.run.folder:RunDirectory").open(str(folder))))
        trainer = self.miner._trainer if self._before else self.miner._engine
        trainer._step = self._timed(trainer._step)

    @property
    def theta(self) -> list[Tensor]:
        """Tensors of θ's shapes."""
        return of_shapes(self.miner.tip.layout.shapes)

    def round(self) -> None:
        """Train, make the submission durable, put it, show its key for a seal, and be done with the round."""
        self._runner.run(self._round())

    async def _join(self, run: Any) -> Any:
        """The miner, as its daemon makes it."""
        identity_of = of("muster.run.credentials:load_identity")
        identity, self._leader = (identity_of(run.key(name)) for name in ("miner-0", "operator-0"))
        chain, where = run.chain(), "dir:miner-0"
        journal = of("muster.node.telemetry.journal:Journal")(run.journal("miner-0"))
        context = of("muster.node.context:Context")(identity, chain, run.buckets(where), where, journal)
        tip, replica = await of("muster.node.ledger.bootstrap:bootstrap")(run.history, context)
        text = of("muster.node.data.dataset:TextReader").open(run.data, tip.spec.data.manifest)
        make, state = of("muster.node.miner.miner:Miner"), run.state("miner-0") / "memory.safetensors"
        if self._before:
            uid = (await chain.snapshot()).by_hotkey()[identity.hotkey].uid
            return make(context, tip, replica, text, state, uid)
        memory = part("muster.node.miner.memory").Memory(state)
        engine = of("muster.node.miner.inner").LocalEngine(tip.spec.model, tip.spec.inner)
        return make(context, tip, replica, text, memory, engine)

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
            head = await miner.surroundings.chain.head()
            await miner.publish_key(self._seal(miner._memory.pending.submission, head, early=()))
            await miner._settle(accepted=True)  # as its record's coming has it do
        else:
            reader, wire = part("muster.node.ledger.reader"), part("muster.protocol.wire")
            head = await miner.context.chain.head()
            seal = self._seal(miner.made.submission, head)
            data = wire.encode_seal(seal, self._leader)
            found = await miner.choose_seal([reader.FoundSeal(seal, wire.digest_of(data), data)], head)
            await miner.publish_key(found)
            await miner.stop_training()
        miner._tip = self._next(miner.tip)

    def _seal(self, submission: bytes, head: Any, **more: Any) -> Any:
        """A seal of the block `head` by the leader that lists this submission."""
        wire, tip = of("muster.protocol.wire"), self.miner.tip
        signed, _ = (wire.decode if self._before else wire.decode_submission)(submission, tip.run_id)
        return wire.Seal(
            run_id=tip.run_id,
            leader=tip.leader(0),
            round=tip.round,
            parent=tip.parent,
            turn=0,
            block=head,
            headers=((self.miner.public, signed.digest),),
            **more,
        )

    @staticmethod
    def _next(tip: Any) -> Any:
        """The ledger with the round after the open one open, with beacons of its own."""
        number, opening = tip.round + 1, tip.opening
        assign, possess = (
            replace(last, value=blake3(last.value).digest()) for last in (opening.assign, opening.possess)
        )
        after = replace(opening, round=number, base_round=number, assign=assign, possess=possess)
        return replace(tip, opening=after)
