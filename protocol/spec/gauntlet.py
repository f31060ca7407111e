"""How work is judged and paid: every constant of the rule, with why it has the value it has by default.

docs/incentive.md tells the rule. Set `mu_rule = "sign"`, `rating = "ordinal"`, `tokens = false`, `power = 2`,
`idle = "gauntlet"` and the three overlap ratios to 0, and work is paid as Gauntlet does (arXiv 2505.21684).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from muster.protocol.spec.section import Natural, Positive, Rate, Section, Share


class GauntletSpec(Section):
    """How work is judged and paid. Counts of windows and peers; decays a round.

    `lag` is L: scores of round r−L steer the selection of round r; the leader waits up to `score_wait` blocks for them.
    """

    eval_windows: Positive = 32
    """Windows a side that a peer is measured on: with fewer, two honest peers' LossScores differ by luck alone."""
    heldout_windows: Positive
    """Windows of the held-out loss: it is shown, and nobody is paid by it."""
    step_scale: Share
    """c: a LossScore is measured at c · α, where the loss is still close to linear in the step."""
    exact_peers: Positive = 20
    """Peers a round that are measured exactly; beyond, a drawn sample is, and the others to first order: of 64 peers at
    a twentieth of the exact cost or less, and in nearly the same order (`benchmarks/gauntlet/sizes.md`)."""
    loss_tolerance: Rate = 0.1
    """By how many published standard errors a gain that is measured again may differ: far below what a lie that pays
    needs, far above what devices differ by."""

    mu_rule: Literal["t", "sign"] = "t"
    """What a round adds to μ: the own-data test's t, bounded, or only the sign of s_a − s_r (Gauntlet)."""
    mu_decay: Share = 0.05
    """γ: μ remembers twenty rounds (Gauntlet)."""
    mu_fast: Share = 0.2
    """A second average, of five rounds: the smaller counts, so that who stops working stops being paid."""
    mu_floor: Share = 0.1
    """At a μ up to this nothing is paid: whoever does not train on its own data averages 0.05 and less, on
    models of 27 thousand to two million parameters alike, because t is measured in its own error."""
    mu_full: Share = 0.25
    """From this μ on all is paid: honest peers average 0.4 and more. A higher ramp (0.15 to 0.3) pays such others a
    third less in a run's first rounds, and equal honest ones twice as unevenly there (`benchmarks/gauntlet`). Honest μ
    grows with the model, to 0.9 at two million parameters: there who trains on a third of its data reaches 0.5."""
    mu_part: Share = 0.6
    """All is paid from this part of the accepted peers' median μ on, where that is more than `mu_full`: honest peers' μ
    grows with the model and the length of a round (0.66, 0.67, 0.92 at 27K, 329K, 2.1M parameters), and how much of its
    data a peer has not trained on shows beside it alone. Half of the work declared as all, and one computation under
    three keys, are paid a tenth and a third less by it late in a run, equal honest peers as evenly (ten seeds)."""
    mu_settled: Natural = 20
    """Tested rounds of the oldest peer from which on the gate is as narrow as μ says. Before, it is so only as far as
    the accepted peers' median μ comes near to `mu_full`: a model that has learned nothing yet learns the same from any
    text, and a test that sees nothing must not decide who is paid."""
    mu_warmup: Natural = 2
    """Tested rounds until the gate is open as far as μ says; pay grows over them, so a new key earns little at once.
    With three nobody who does no work was paid less, and newcomers waited half a round longer."""

    rating: Literal["mean", "openskill", "ordinal"] = "mean"
    """What PeerScore is proportional to: the mean of LossScores beside the others' (linear in work), the mean of the
    LossRating, or its μ − 3σ (Gauntlet), which a ranking of equals makes a lottery."""
    work_decay: Share = 0.05
    """The mean of LossScores remembers twenty rounds."""
    work_cold: Annotated[int, Field(ge=0, le=1000)] = 6
    """Round i of a peer's first ones counts (i / 6)³ in that mean; 0: as any other. An optimizer and an error feedback
    that begin cold make updates worth 0.15, 0.3, 0.46, 0.6 and 0.7 of the others', and a newcomer would be paid by them
    for twenty rounds: it waited 7 rounds for half of an equal's pay, now 2.7 (`benchmarks/gauntlet`)."""
    rating_beta: Rate
    """β of OpenSkill: how far apart skills must lie to show in one round."""
    rating_tau: Rate
    """τ of OpenSkill: what each round adds to σ, so that a rating can still move later."""
    tokens: bool = True
    """Whether pay is in proportion to the declared part of a round's windows: it makes splitting one's work a loss."""
    power: Rate = 1.0
    """Of PeerScore in a share: LossScore times tokens is convex already (2 in Gauntlet, whose rating is not)."""
    idle: Literal["nothing", "gauntlet"] = "nothing"
    """What a round without a valid submission leaves of a PeerScore: nothing, or 0.75 (Gauntlet; three failures: 0)."""

    clone_ratio: Rate = 3.0
    """An update that has more than this many times in common with another of its round than two honest ones have is a
    clone of it; 0: not looked at. Ratios, because what honest ones have in common falls tenfold in a run, and with the
    size of the model; of models of three sizes no two honest ones had more than 2.3 in common."""
    copy_ratio: Rate = 4.0
    """The same with one of the last round's: a copy."""
    mixer_ratio: Rate = 3.2
    """The same with the last rounds' on average: a mixture of what others made. Mixers average 4.2 and more on models
    of any size, honest peers 1.8 at most."""

    seats: Positive
    """G: how many submissions a round applies."""
    newcomer_share: Share
    """The part of contested seats that newcomers get, so that who has not proven itself yet can."""
    lag: Positive
    """L: after so many rounds scores steer seats; measuring takes that long, and the rounds between do not wait."""
    score_wait: Natural
    """Blocks for which a leader waits for scores that are late."""

    @model_validator(mode="after")
    def _ramp(self) -> Self:
        if self.mu_full <= self.mu_floor:
            raise ValueError("mu_full must exceed mu_floor")
        return self
