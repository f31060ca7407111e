"""Variant: everything that defines one run of the study, and the id that names it in every table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from muster.kernels import Rule

Method = Literal["single", "ddp", "diloco", "sparse"]
Optimizer = Literal["adamw", "muon"]
Model = Literal["study", "larger"]
Values = Literal["2bit", "8bit", "exact"]
Selection = Literal["topk", "randomk"]
Commit = Literal["accepted", "always"]
Merge = Literal["take", "add", "mix", "fresh"]

BASELINE = "default"
"""The id of the variant that differs from the defaults in nothing."""

_SPARSE_ONLY = (
    "k",
    "values",
    "beta",
    "rule",
    "scale_cap",
    "selection",
    "error_feedback",
    "sign",
    "commit",
    "attackers",
    "overdue",
    "age",
    "age_weight",
    "delay",
    "merge",
)
_OUTER_ONLY = ("alpha", "outer_momentum", "absence", "loss", "late", "uneven")


@dataclass(frozen=True, slots=True)
class Variant:
    """One run. Defaults are SparseLoCo as the presets have it, on the study's model.

    Attributes:
        method: "single", one worker alone; "ddp", one optimizer step on the batches of all workers at every inner
            step; "diloco", whole pseudo-gradients, their mean taken by Nesterov's SGD; "sparse", SparseLoCo.
        optimizer: of the inner steps.
        model: whose preset it is: the study's own, or the larger one that decides what presets train with.
        peers: R, honest ones. `attackers` come on top.
        steps: H, inner steps of a round.
        rounds: outer steps of the run; the inner schedule ends with the last.
        batch: windows of a peer's inner step.
        lr: peak inner learning rate; it falls to the preset's share of it.
        k: entries kept of a tile.
        values: as what a kept entry is sent.
        beta: β, how much of the error feedback is left after a round.
        rule: the outer rule.
        alpha: α, the outer learning rate.
        scale_cap: c of the scale cap, 0 for none.
        selection: which entries are kept: the largest, or random ones.
        error_feedback: whether what is not sent is kept for later.
        outer_momentum: Nesterov momentum of the outer step, 0 for none.
        sign: the outer step goes by the sign of the aggregate alone.
        absence: how likely a peer does nothing in a round.
        loss: how likely a trained submission is not accepted.
        commit: what happens to error feedback then: "accepted", it keeps the whole accumulator; "always", it
            gives up what was sent, as if it had been accepted.
        late: half of the peers join only when half of the rounds are over.
        uneven: peers manage a quarter, a half, three quarters or all of H, in turn.
        overdue: how likely a trained submission comes too late for its round's step.
        age: how many rounds later such a one is applied, beside that round's own.
        age_weight: what it counts for there, beside 1 for a round's own; what was sent is given up by error feedback as
            always.
        delay: inner steps of the next round that a peer has trained when the outer step of the last one reaches it; 0,
            it waits for that step; H, it is a whole round behind.
        merge: how a peer's weights go on then: "take", they become the new θ; "add", they become the new θ with what
            was trained since the last submission on top; "mix", the mean of the new θ and of what they were; "fresh",
            as "add", but a round begins from the newest θ there is and not from where the last one ended.
        attackers: peers that send large values at entries nobody else lists.
        seed: of genesis, assignment and every chance in the run.

    Raises:
        ValueError: a setting that the method does not have is not at its default, or a delay is longer than a round.
    """

    method: Method = "sparse"
    optimizer: Optimizer = "adamw"
    model: Model = "study"
    peers: int = 4
    steps: int = 15
    rounds: int = 48
    batch: int = 4
    lr: float = 4e-3
    k: int = 64
    values: Values = "2bit"
    beta: float = 0.95
    rule: Rule = "sender_mean"
    alpha: float = 1.0
    scale_cap: float = 8.0
    selection: Selection = "topk"
    error_feedback: bool = True
    outer_momentum: float = 0.0
    sign: bool = False
    absence: float = 0.0
    loss: float = 0.0
    commit: Commit = "accepted"
    late: bool = False
    uneven: bool = False
    overdue: float = 0.0
    age: int = 1
    age_weight: float = 1.0
    delay: int = 0
    merge: Merge = "add"
    attackers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        unused: tuple[str, ...] = () if self.method == "sparse" else _SPARSE_ONLY
        if self.method in ("single", "ddp"):
            unused += _OUTER_ONLY
        changed = [field.name for field in fields(self) if field.name in unused and self._differs(field.name)]
        if changed:
            raise ValueError(f"method {self.method} has no {', '.join(changed)}")
        if self.attackers and self.values != "2bit":
            raise ValueError("attackers send 2-bit values, so everybody must")
        if self.delay > self.steps:
            raise ValueError(f"a delay of {self.delay} inner steps is longer than a round of {self.steps}")
        if self.delay == self.steps and self.merge == "fresh":
            raise ValueError('a whole round late, "fresh" is "take"')

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != _DEFAULTS[name])

    @property
    def id(self) -> str:
        """What differs from the defaults, as "name=value;…" in the order of the fields; equal only for equals."""
        changed = [f"{name}={_text(value)}" for name, value in asdict(self).items() if self._differs(name)]
        return ";".join(changed) or BASELINE

    @classmethod
    def from_id(cls, text: str) -> Self:
        """The variant with this id.

        Raises:
            ValueError: it is no variant's.
        """
        settings = dict(part.partition("=")[::2] for part in text.split(";")) if text != BASELINE else {}
        if unknown := settings.keys() - _DEFAULTS.keys():
            raise ValueError(f"a variant has no {', '.join(sorted(unknown))}")
        variant = cls(**{name: _parse(_DEFAULTS[name], value) for name, value in settings.items()})
        if variant.id != text:
            raise ValueError(f"{text!r} is not how a variant's id is written; that would be {variant.id!r}")
        return variant


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Variant)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _parse(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        return {"True": True, "False": False}[text]
    return type(default)(text)
