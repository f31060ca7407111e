"""What a person sees of a run, as plain data: whoever gathers facts, and whoever shows them, meet only here.

A `RunStatus` is one look at a run under way; a `RunSummary` is the last look, with what is known only at
the end. Text from peers (names, rejection reasons) is carried as it came: whoever shows it escapes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from muster.protocol.incentive.row import ScoreRow

PHASES = ("train", "submit", "seal", "reveal", "record")
"""The phases of a round in order; the keys of `RoundRow.phases`."""

REPORT_NAME = "report.html"
"""Name of the report inside a run directory."""

ETA_ROUNDS = 5
"""Rounds whose median predicts the next ones: enough to forget one that waited for its deadline."""

RatingPoint = tuple[int, float, float]
"""A LossRating after a round: (round, mu, sigma)."""


def printable(text: str) -> str:
    """The text with each unprintable character as "?": a terminal obeys escape sequences."""
    return "".join(character if character.isprintable() else "?" for character in text)


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One miner. `behaviour` is "honest" or an adversary's name; `rejected` counts submissions by reason.

    `score` is the newest judgement of it, None until there is one, and `why` that in one line: rank, share, and what
    takes most from it. `late` counts submissions that a later round's record took in.
    """

    uid: int
    hotkey: str
    name: str
    behaviour: str
    submitted: int
    accepted: int
    rejected: Mapping[str, int]
    score: ScoreRow | None = None
    why: str = ""
    late: int = 0

    @property
    def label(self) -> str:
        """What the peer is called where a row must be short: its name, else the head of its hotkey."""
        return self.name or self.hotkey[:8]

    def to_json_object(self) -> dict[str, object]:
        """The peer as `--json` prints it, `score` being the whole judgement; what was never judged is null."""
        score = self.score
        return {
            "uid": self.uid,
            "hotkey": self.hotkey,
            "behaviour": self.behaviour,
            "submitted": self.submitted,
            "accepted": self.accepted,
            "late": self.late,
            "rejected": dict(sorted(self.rejected.items())),
            "mu": score and score.mu,
            "rating": {
                "mu": score and score.rating_mu,
                "sigma": score and score.rating_sigma,
                "ordinal": score and score.rating.ordinal,
            },
            "peer_score": score and score.peer_score,
            "weight": score and score.incentive,
            "score": score and asdict(score),
        }


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One closed round; a null round (`kind`) left θ as it was.

    `accepted` of `sealed` submissions entered the outer step; `loss` is the held-out loss after it, in
    nat/byte, None where nobody measured; `seconds` and `phases` (keys of `PHASES`) are wall time; bytes
    count what all participants put (`bytes_up`) and fetched (`bytes_down`, None where nobody counted by
    round); `root` is the state root after the round, 64 hexadecimal digits; `late` counts earlier rounds' submissions
    that entered beside these.
    """

    round: int
    kind: Literal["round", "null"]
    accepted: int
    sealed: int
    loss: float | None
    seconds: float
    phases: Mapping[str, float]
    bytes_up: int
    root: str
    bytes_down: int | None = None
    late: int = 0


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One supervised process; `pid` is None before its first start, `restarts` counts crashes made good."""

    name: str
    pid: int | None
    alive: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One look at a run. `round` is under way (counted from 0), `phase` is one of `PHASES` or a plain word.

    `unigram` is the entropy of the held-out text's bytes in nat/byte, the loss of a model that knows only
    letter frequencies; `note` is one line about what happens now, "" for nothing to say.
    """

    run_id: str
    preset: str
    directory: str
    round: int
    rounds_total: int
    phase: str
    peers: tuple[PeerRow, ...]
    rounds: tuple[RoundRow, ...]
    processes: tuple[ProcessRow, ...]
    unigram: float
    elapsed_s: float
    note: str

    @property
    def losses(self) -> tuple[float, ...]:
        """Held-out losses measured so far, nat/byte, oldest first."""
        return tuple(row.loss for row in self.rounds if row.loss is not None and math.isfinite(row.loss))

    @property
    def eta_s(self) -> float | None:
        """Seconds the missing rounds take if they are like the last `ETA_ROUNDS`; None before the first."""
        if not self.rounds:
            return None
        usual = statistics.median(row.seconds for row in self.rounds[-ETA_ROUNDS:])
        return usual * max(0, self.rounds_total - len(self.rounds))


@dataclass(frozen=True, slots=True)
class RunSummary(RunStatus):
    """A finished run.

    `first_record_s` and `wall_s` are seconds from the command's start; `state_roots` has one root per round
    (after it) and `roots_agree` says whether every honest replica held the same ones; `bits_per_value` is
    what one kept value cost on the wire and `compression_ratio` compares that with dense fp32;
    `utilisation` is inner-step seconds ÷ (miners × seconds from first to last record); `events` are
    sentences: restarts, missed deadlines. `ratings_history` maps a hotkey to its ratings in round order.
    """

    first_record_s: float
    wall_s: float
    state_roots: tuple[str, ...]
    roots_agree: bool
    bits_per_value: float
    compression_ratio: float
    bytes_up: int
    bytes_down: int
    utilisation: float
    events: tuple[str, ...]
    ratings_history: Mapping[str, tuple[RatingPoint, ...]]

    @property
    def state_root(self) -> str:
        """The root after the last round; "" for a run without rounds."""
        return self.state_roots[-1] if self.state_roots else ""

    @property
    def report(self) -> str:
        """Where the report of this run lies."""
        return f"{self.directory.rstrip('/')}/{REPORT_NAME}"

    def to_json_object(self) -> dict[str, object]:
        """The object that `--json` prints, ready for strict JSON: what is not a finite number is null."""
        return {
            "rounds": len(self.rounds),
            "wall_s": _finite(self.wall_s),
            "first_record_s": _finite(self.first_record_s),
            "loss": [_finite(row.loss) for row in self.rounds],
            "unigram": _finite(self.unigram),
            "state_roots": list(self.state_roots),
            "state_root": self.state_root,
            "roots_agree": self.roots_agree,
            "bits_per_value": _finite(self.bits_per_value),
            "compression_ratio": _finite(self.compression_ratio),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "utilisation": _finite(self.utilisation),
            "peers": [peer.to_json_object() for peer in sorted(self.peers, key=lambda peer: peer.uid)],
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
