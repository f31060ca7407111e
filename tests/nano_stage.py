"""Runs of the bench's spec `nano`, laid out once and played with faults, for tests that break them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muster.lab import clock
from muster.lab.faults import Script
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import Absence, Makers, SimulatedRun, Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.protocol.spec import RunSpec, Template
from muster.testnet.roster import Roster
from muster.validator.aggregator.aggregator import Aggregator

BLOCK = 12.0
"""Seconds between blocks."""

STUCK = 200
"""Blocks after which a run of a few rounds is not going to end: `Stuck` is raised."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is special about a run: clock, wait for scores, operators, whom nobody expects, seats, what aggregators are,
    how many blocks later a block is final, what late work weighs by its age, how many rounds later scores steer, and
    how many miners there are."""

    name: str
    clock: Mapping[str, int] = field(hash=False)
    score_wait: int
    operators: int = 1
    strangers: tuple[str, ...] = ()
    seats: int = 20
    leader: type[Aggregator] = Aggregator
    final_after: int = 0
    ages: tuple[float, ...] = ()
    lag: int = 1
    miners: int = 2


@dataclass(frozen=True, slots=True)
class NanoStage:
    """A run of a few miners, laid out and not begun."""

    setting: Setting
    roster: Roster
    spec: RunSpec
    text: TextReader

    @classmethod
    def lay(cls, setting: Setting, folder: Path) -> NanoStage:
        """Write its text into a folder, and settle its spec."""
        document = nano_template().model_dump()
        document["clock"] |= setting.clock
        document["gauntlet"] |= {"lag": setting.lag, "score_wait": setting.score_wait, "seats": setting.seats}
        document["outer"] |= {"age_weights": setting.ages}
        document["data"]["slots"] = max(document["data"]["slots"], 2 * setting.miners)
        template, roster = Template.model_validate(document), Roster.of(0, setting.miners, setting.operators, {})
        folder.mkdir(exist_ok=True)
        texts = [folder / f"{i}.txt" for i in range(4 * setting.miners)]
        for i, path in enumerate(texts):
            path.write_text(f"the {i}th text is like every other one and says nothing; " * 40)
        manifest = build_corpus(texts, folder / "data", template.data.window)
        spec = roster.spec(template, manifest)
        known = [miner.hotkey for miner in roster.miners if miner.name not in setting.strangers]
        genesis = spec.genesis.model_copy(update={"miners": tuple(known)})
        text = TextReader.open(folder / "data", manifest.digest)
        return cls(setting, roster, spec.model_copy(update={"genesis": genesis}), text)

    def play(
        self,
        script: Script,
        rounds: int,
        arrivals: Mapping[str, int] | None = None,
        absent: Absence | None = None,
        makers: Makers = lambda _: counting_miner,
        stuck: int = STUCK,
    ) -> SimulatedRun:
        """The run to its closing record, on a clock that jumps; the next three as `Simulator` takes them.

        Raises:
            Stuck: it does not end within `stuck` blocks.
        """
        simulator = self.simulator(script, arrivals, absent, makers)
        return clock.run(simulator.run(rounds), stuck * BLOCK)

    def simulator(
        self,
        script: Script,
        arrivals: Mapping[str, int] | None = None,
        absent: Absence | None = None,
        makers: Makers = lambda _: counting_miner,
    ) -> Simulator:
        """What plays it."""
        return Simulator(
            self.roster,
            self.spec,
            self.text,
            arrivals=arrivals,
            makers=makers,
            absent=absent,
            script=script,
            block_seconds=BLOCK,
            leader=self.setting.leader,
            final_after=self.setting.final_after,
        )
