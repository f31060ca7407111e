"""Where each vector stands: `tests/vectors/<rule>/<case>.json`, what is given apart from what must come of it.

A file is one JSON object. `about` is a sentence. `given` is what an implementation starts from. `expect` is what it
must come to; where there is `refused` instead, it must take none of it, and name that reason if the rule has reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tests" / "vectors"
PINNED = FOLDER / "pinned.json"
"""Bytes that cannot be made again, and which the other files are made with; no vector."""

Section = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """The file of a section, and which of its values are given."""

    rule: str
    case: str
    about: str
    given: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's path below the folder."""
        return f"{self.rule}/{self.case}.json"


_JUDGED = ("gauntlet", "full", "round_0", "round_1", "round_2", "round_3")

PLACES: Mapping[str, Place] = {
    "identity": Place("identity", "alice", "A participant of a local run, by its seed and a name", ("seed", "name")),
    "spec": Place("spec", "example", "The canonical bytes of the spec of all these vectors", ("canonical",)),
    "layout": Place("layout", "example", "Tensors of a model in their order", ("model",)),
    "grid": Place("grid", "mixed", "Clipped tiles, vectors, a scalar, three dimensions", ("shapes",)),
    "sampling": Place("sampling", "thousand", "Distinct numbers", ("beacon", "label", "population", "count")),
    "sampling_large": Place(
        "sampling", "largest", "Numbers of 64 bits: read them as such", ("beacon", "label", "population", "count")
    ),
    "local_chain": Place("chain", "local", "Blocks and beacons of a local chain", ("seed",)),
    "commitment": Place(
        "chain",
        "commitment",
        "What a leader commits on Bittensor",
        ("location", "long_location", "bootstrap", "round", "digest", "seal"),
    ),
    "majority": Place(
        "majority", "six-validators", "Who amends without the owner", ("stakes", "silenced", "signers")
    ),
    "assignment": Place("assignment", "example", "Windows of a slot", ("beacon", "windows", "slots", "slot", "count")),
    "genesis": Place("genesis", "example", "θ of the start, of the layout example's model", ("seed",)),
    "roots": Place(
        "roots", "example", "Of θ_0 of the genesis example", ("run_id", "outer_step", "beacon", "hotkey", "round")
    ),
    "quantiser": Place("quantiser", "tile", "One tile of eight values", ("values",)),
    "codec": Place("codec", "one-frame", "A small model in one frame", ("shapes", "k", "payload_to_decode")),
    "outer": Place("outer", "three-updates", "Caps, clips and steps by the three rules",
        ("scale_bytes_of_the_third", "uneven_windows", "uneven_silent_for", "late_ages", "late_age_weights")),
    "selection": Place(
        "selection",
        "six-peers",
        "Order and seats of six candidates",
        (
            "seats", "newcomer_share", "peers", "scores_stake_3", "scores_stake_2", "positive", "copiers",
            "accepted_before", "failed_before", "beacon",
        ),
    ),
    "incentive": Place("incentive", "four-rounds", "Four rounds of four peers by the default rule", _JUDGED),
    "incentive_gauntlet": Place("incentive", "as-gauntlet", "The same four rounds, paid as Gauntlet does", _JUDGED),
    "checkpoint": Place("checkpoint", "example", "θ_0 and the first tip, as files"),
}  # fmt: skip
"""Other sections are signed objects: `wire/<section>.json`."""


def place_of(section: str) -> Place:
    """Where a section's file is."""
    return PLACES.get(section) or Place("wire", section, "A signed object of round 0, or what belongs to one")


def documents(sections: Mapping[str, Section]) -> dict[str, Document]:
    """The files by name, of the sections that say what must come out."""
    found = {}
    for name, section in sections.items():
        place = place_of(name)
        given = {key: section[key] for key in place.given}
        expect = {key: value for key, value in section.items() if key not in given}
        found[place.name] = {"about": place.about, "given": given, "expect": expect}
    return found


def to_text(document: Document) -> str:
    """A file's text: JSON with one value a line."""
    parts = []
    for name, value in document.items():
        if isinstance(value, dict) and value:
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
            parts.append(f' "{name}": {{\n{lines}\n }}')
        else:
            parts.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_documents() -> dict[str, Document]:
    """The files as they stand."""
    names = sorted(path for path in FOLDER.rglob("*.json") if path != PINNED)
    return {path.relative_to(FOLDER).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in names}


def read_pinned() -> dict[str, str]:
    """What is pinned, nothing where there is no file."""
    if not PINNED.exists():
        return {}
    known: dict[str, str] = json.loads(PINNED.read_text(encoding="utf-8"))
    return known


def write(made: Mapping[str, Document], pinned: Mapping[str, str]) -> None:
    """Write all files, and take away those that no section has any more."""
    for name in read_documents().keys() - made.keys():
        (FOLDER / name).unlink()
    for name, document in made.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(to_text(document), encoding="utf-8")
    PINNED.write_text(json.dumps(dict(sorted(pinned.items())), indent=1) + "\n", encoding="utf-8")
