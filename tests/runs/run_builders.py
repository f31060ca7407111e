"""Whole runs small enough to play dozens of: a model of 12,000 parameters, 32-byte windows, text from a word list.

Everything is a function of its arguments and of the template's numbers; nothing depends on the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.data.dataset import TextReader
from muster.node.ledger.reader import genesis_tip as genesis
from muster.protocol import paths, wire
from muster.protocol.identity import hotkey_of
from muster.protocol.spec import RunSpec, Template, load_template
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import layout_of
from muster.protocol.storage import Store
from muster.protocol.wire import Opening, Record, ScoreFile, Seal
from muster.run.file import RunFile
from muster.run.folder import RunDirectory, create
from muster.testnet.roster import Member, Roster

LAG = 1
SEED = 5
TEXT_SEED = 20
MAX_BYTES = 2**24
"""Larger than any object of these runs."""

_SENTENCE = (
    "miners train one model together over ordinary links and validators measure what each update is worth "
    "while the aggregator seals every round signs the record and the chain pays those who did the work"
)


PATIENT = {"seal_age": 15, "evaluate": 16}
"""Of the clock of real processes: on a busy machine a look takes longer than a few blocks of 0.25 s."""


def template(**sections: Mapping[str, Any]) -> Template:
    """`tiny`, made smaller; `clock={"deadline": 5}` changes a field of a section."""
    document = load_template("tiny").model_dump()
    document["name"] = "miniature"
    document["model"] |= {
        "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "context": 32
    }  # fmt: skip
    document["inner"] |= {"steps": 3, "batch": 2, "lr": 8e-3, "final_lr": 2e-3, "warmup": 3, "total": 24}
    document["gauntlet"] |= {"eval_windows": 4, "heldout_windows": 16, "lag": LAG, "mu_warmup": 4, "score_wait": 8}
    document["clock"] |= {"deadline": 12, "reveal": 5, "grace": 4, "anchor": 5, "checkpoint_every": 2}
    document["clock"] |= {"seal_age": 4, "evaluate": 5, "turn": 10, "touch": 2000}
    document["data"] |= {"window": 32, "slots": 12}
    for name, fields in sections.items():
        document[name] |= fields
    return Template.model_validate(document)


def write_template(made: Template, path: Path) -> Path:
    """A template as the TOML file that `--preset` takes."""
    path.write_text(tomli_w.dumps(made.model_dump(mode="json")))
    return path


def write_text(folder: Path, files: int = 24, words: int = 700) -> list[Path]:
    """Text files of random sentences, the same ones every time."""
    rng, vocabulary = random.Random(TEXT_SEED), _SENTENCE.split()
    folder.mkdir(parents=True)
    made = []
    for i in range(files):
        path = folder / f"text-{i:02d}.txt"
        path.write_text(" ".join(rng.choice(vocabulary) for _ in range(words)))
        made.append(path)
    return made


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that is laid out and not begun: its folder, who is in it, and the text in it."""

    run: RunDirectory
    roster: Roster
    text: TextReader

    @property
    def spec(self) -> RunSpec:
        """What the run pins."""
        return self.run.history.genesis

    def member(self, name: str) -> Member:
        """Somebody by name."""
        return next(member for member in self.roster.members if member.name == name)

    def name_of(self, hotkey: str) -> str:
        """The name of somebody."""
        return next(member.name for member in self.roster.members if member.hotkey == hotkey)


class MakeStage(Protocol):
    """Lays out a run in a fresh folder; sections change the template."""

    def __call__(
        self,
        miners: int = 3,
        validators: int = 1,
        seed: int = SEED,
        adversaries: Mapping[str, int] | None = None,
        **sections: Mapping[str, Any],
    ) -> Stage: ...


def lay_out(path: Path, texts: list[Path], made: Template, roster: Roster, parts: RunFile | None = None) -> Stage:
    """The folder of a run, as the testnet makes it; `parts` says where what is not local is."""
    run = create(path, made, roster, texts, 0.25, parts)
    return Stage(run, roster, TextReader.open(run.data, run.history.genesis.data.manifest))


def genesis_without(spec: RunSpec, *hotkeys: str) -> RunSpec:
    """The spec with an A_0 that these are not in: to the run they are newcomers."""
    known = tuple(hotkey for hotkey in spec.genesis.miners if hotkey not in hotkeys)
    return spec.model_copy(update={"genesis": spec.genesis.model_copy(update={"miners": known})})


def play(stage: Stage, rounds: int, spec: RunSpec | None = None, **how: Any) -> SimulatedRun:
    """Simulate a laid out run to its closing record."""
    return asyncio.run(Simulator(stage.roster, spec or stage.spec, stage.text, **how).run(rounds))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a run left in its leader's bucket, read as anyone would."""

    run: SimulatedRun

    @property
    def run_id(self) -> bytes:
        """The run."""
        return self.run.spec.run_id()

    @property
    def leader(self) -> Store:
        """The first operator's bucket."""
        return self.run.buckets.bucket("mem:operator-0")

    def key(self, kind: str, round_: int) -> str:
        """The name of the one object of a round among the `seals`, `records`, `bundles` or `scores`."""
        (info,) = asyncio.run(self.leader.list(f"{self.run_id.hex()}/{kind}/{round_:08d}-"))
        return info.key

    def heads(self, round_: int) -> str:
        """The name of what the leader keeps of a round's seal."""
        return paths.heads(self.run_id, round_, self.record(round_).parent)

    def record(self, round_: int) -> Record:
        """The record of a round."""
        data = asyncio.run(self.leader.get(self.key("records", round_), max_bytes=MAX_BYTES))
        return wire.decode_record(data, self.run_id, len(layout_of(self.run.spec.model).shapes))[0]

    def opening(self, round_: int) -> Opening:
        """What was fixed for a round before it began."""
        if round_ == 0:
            return asyncio.run(genesis(SpecHistory.of(self.run.spec), self.run.chain)).opening
        opening = self.record(round_ - 1).opening
        assert opening is not None
        return opening

    def seal(self, round_: int) -> Seal:
        """The seal of a round."""
        data = asyncio.run(self.leader.get(self.key("seals", round_), max_bytes=MAX_BYTES))
        return wire.decode_seal(data, self.run_id)[0]

    def scores(self, round_: int) -> ScoreFile:
        """What the first validator said of a round."""
        data = asyncio.run(self.leader.get(self.key("scores", round_), max_bytes=MAX_BYTES))
        return wire.decode_scores(data, self.run_id, self.run.spec.genesis.leaders[0], round_)[0]

    def reasons(self, roster: Roster, round_: int) -> dict[str, str]:
        """Why each sealed submission of a round was rejected ("" = accepted), by member name."""
        names = {member.hotkey: member.name for member in roster.members}
        return {names[hotkey_of(entry.public)]: entry.reason for entry in self.record(round_).sealed}
