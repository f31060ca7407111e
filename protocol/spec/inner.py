"""What a run says of its miners' local training: steps, batches, optimizer and its constants, learning rates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from muster.protocol.spec.section import Natural, Positive, Rate, Section, Share

_Real = Annotated[float, Field(allow_inf_nan=False)]


class MuonSpec(Section):
    """Muon's constants, by default those of Jordan et al. (2024), scaled as by Liu et al. (arXiv 2502.16982).

    `a`, `b` and `c` are of the polynomial a·x + b·x³ + c·x⁵ that is applied `steps` times. `scale` is what a step is
    multiplied by besides the rate: "match_rms_adamw" 0.2·√(longer side), so that one rate and one decay mean the same
    for both optimizers; "original" √(max(1, rows / columns)), 1.6 to 3.2 times less in models of this kind.
    """

    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    momentum: Share = 0.95
    nesterov: bool = True
    steps: Annotated[int, Field(gt=0, lt=100)] = 5
    a: _Real = 3.4445
    b: _Real = -4.775
    c: _Real = 2.0315
    eps: Rate = 1e-7


class InnerSpec(Section):
    """A miner's local training: `steps` (H) inner steps of `batch` windows, AdamW or Muon, warm-up and then `schedule`.

    `warmup` and `total` count inner steps over the whole run. After "cosine" has reached `total` the rate stays at
    `final_lr`. "inverse_sqrt" has no end (`total` is 0) until an amendment names the outer step `decay_from` (0: none)
    and it falls to `final_lr` in a straight line over `decay_steps` outer steps. "muon" is for the matrices inside the
    blocks; `beta1`, `beta2` and `eps` are AdamW's, which trains the rest.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: Positive
    batch: Positive
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    lr: Rate
    final_lr: Rate
    warmup: Natural
    total: Natural = 0
    decay_from: Natural = 0
    decay_steps: Natural = 0
    beta1: Share
    beta2: Share
    eps: Rate
    weight_decay: Rate
    clip: Rate
    muon: MuonSpec = MuonSpec()

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        if self.schedule == "cosine" and (self.total == 0 or self.decay_from > 0):
            raise ValueError("a cosine ends at total, which must be above 0, and decay_from is 0")
        if self.schedule == "inverse_sqrt" and (self.total > 0 or self.warmup == 0):
            raise ValueError("inverse_sqrt has no end, so total must be 0; warmup, its unit of time, must be above 0")
        if self.decay_from > 0 and self.decay_steps == 0:
            raise ValueError("a decay takes decay_steps, which must be above 0 before decay_from is named")
        return self
