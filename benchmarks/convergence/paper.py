"""docs/results.md, written from the results: every number in it comes out of the file and none is typed."""

from __future__ import annotations

import math
from statistics import fmean

from benchmarks.convergence.decisions import alpha, larger
from benchmarks.convergence.findings import Answers, Finding, dense_bytes
from benchmarks.convergence.latency_page import latency, latency_findings
from benchmarks.convergence.markdown import difference_table, play, table
from benchmarks.convergence.plan import (
    BATCH_OF,
    KEPT,
    LENGTHS,
    RULE_ALPHAS,
    SAME_BATCH_PEERS,
    VALUES,
    rule_candidates,
    same_batch_candidates,
)
from benchmarks.convergence.setting import STUDY
from benchmarks.convergence.variant import Variant
from benchmarks.convergence.ways import SEEDS, TUNING_SEED, WAYS
from muster.kernels import Rule
from muster.protocol.spec import load_template
from muster.protocol.spec.layout import layout_of

REPORT_COMMAND = "python -m benchmarks.convergence report"


def write(answers: Answers) -> str:
    """The whole page."""
    sections = (
        _claim,
        _setting,
        _verdicts,
        _frontier,
        _rules,
        alpha,
        _horizons,
        _ablations,
        _churn,
        latency,
        _optimizers,
        larger,
        _lengths,
        _caveats,
    )
    return "\n\n".join(section(answers).strip() for section in sections) + "\n"


def _claim(answers: Answers) -> str:
    sparse, diloco, ddp = (answers["frontier", name] for name in ("k=64 2bit", "diloco", "ddp"))
    ours = answers.tables["frontier"]["k=64 2bit"]
    ratio = dense_bytes(answers) / answers.bytes_a_round(ours)
    traffic = answers.bytes_a_run(answers.tables["frontier"]["ddp"]) / answers.bytes_a_run(ours)
    return f"""# Results: as good as training together?

The claim to test: strangers who train with SparseLoCo get about the loss of DiLoCo, and of workers in one
computer centre, at a two-hundredth of DiLoCo's traffic and far less of theirs. On a model small enough to repeat everything on a laptop:

- SparseLoCo with k = 64 ends at **{sparse}** nat/byte, DiLoCo at **{diloco}** ({sparse.mean / diloco.mean - 1:+.1%}).
- Its peers send **{ratio:.0f}** times fewer bytes a round than dense fp32, and {traffic:,.0f} times fewer than data-parallel
  training of the same tokens.
- Data-parallel AdamW, which exchanges gradients at every inner step, ends at **{ddp}**: training with rare, small messages
  costs {sparse.mean / ddp.mean - 1:.1%} of loss here.

![Loss against bytes sent: SparseLoCo at several densities, DiLoCo, data-parallel](img/results-frontier.svg)

Every number below comes from [results.csv](../benchmarks/convergence/results.csv) by `{REPORT_COMMAND}`. `make results` plays
what is missing of it, `make results-quick` repeats the main effects in three minutes, and each single run is
`python -m benchmarks.convergence play ID` with an id from the file's first column."""


def _setting(answers: Answers) -> str:
    rows = list(answers.rows.values())
    seconds = sum(row.seconds["total"] for row in rows)
    model = sum(row.seconds["model"] for row in rows)
    optimizer = sum(row.seconds["optimizer"] for row in rows)
    spec = load_template(str(STUDY))
    tuned = table(
        ("method", "inner optimizer", "inner rate", "outer rate", "run"),
        (
            (way.method, way.optimizer, f"{found.lr:g}", _outer_rate(found), play(found))
            for way in WAYS
            for found in [way.tuned(answers.rows)]
        ),
    )
    return f"""## How it was measured

- **Model**: {layout_of(spec.model).parameters:,} parameters ({spec.model.layers} layers, width {spec.model.hidden},
  context {spec.model.context}), on the bytes of Python's own standard library; 5 % of the files are held out.
- **A run**: 4 peers, 48 rounds of H = 15 inner steps of 4 windows each, unless a table says otherwise. The
  code is the one that real runs use: replica, kernels, spec, model, optimizer, schedule, assignment. Only signatures, store and chain are
  left out, and a test holds its losses to those of `muster testnet`, bit for bit.
- **Loss**: held-out nat/byte, the mean over the last three rounds; ± is the standard error over {len(SEEDS)} seeds. Differences are
  taken seed by seed. Three seeds make a rough error: 2 of them is about 80 % sure, not 95 %.
- **Tuning**: every method got 8 candidates on a seed of its own ({TUNING_SEED}), which no table reports.
- **Budget**: {len(rows)} runs, {seconds / 3600:.1f} processor hours on 2 cores of a shared x86 server, {len(rows) / (seconds / 3600):.0f}
  runs a processor hour. {1 - model / seconds:.0%} of the time is outside the model's forward and backward pass,
  {1 - (model + optimizer) / seconds:.0%} outside inner training: the study's own.

{tuned}"""


def _outer_rate(variant: Variant) -> str:
    if variant.method in ("single", "ddp"):
        return "–"
    return f"{variant.alpha:g}" + (f", Nesterov {variant.outer_momentum:g}" if variant.outer_momentum else "")


def _verdicts(answers: Answers) -> str:
    def row(finding: Finding) -> tuple[str, str, str]:
        mark = {"as expected": "✓", "against expectation": "✗", "not told apart": "–"}[finding.verdict]
        return finding.claim, finding.measured, f"{mark} {finding.verdict}"

    findings = [*answers.findings(), *latency_findings(answers)]
    against = sum(finding.verdict == "against expectation" for finding in findings)
    open_ = sum(finding.verdict == "not told apart" for finding in findings)
    return f"""## Expected and found

What papers and predecessors' code say, and what came out here. Differences are in nat/byte, below zero is better for what is
named first. {against} of {len(findings)} went against the expectation and {open_} could not be told from chance.

{table(("expected", "measured", "verdict"), (row(finding) for finding in findings))}"""


def _frontier(answers: Answers) -> str:
    variants = answers.tables["frontier"]
    dense = dense_bytes(answers)

    def row(label: str) -> tuple[object, ...]:
        sent = answers.bytes_a_round(variants[label])
        ratio = f"{dense / sent:.1f}×" if sent else "–"
        return label, answers["frontier", label], f"{sent:,.0f}", ratio, play(variants[label])

    labels = ["single", "ddp", "diloco", *(f"k={k} {values}" for k in KEPT for values in VALUES)]
    return f"""## 1. Loss against bytes

{table(("run", "loss", "bytes a peer and round", "below dense fp32", "command"), (row(label) for label in labels))}

![Loss curves of four methods](img/results-curves.svg)"""


def _rule_losses(answers: Answers) -> str:
    """Each rule at its own best α."""
    variants = answers.tables["rules"]
    return table(
        ("rule", *(f"R = {peers} (α)" for peers in BATCH_OF), "mean"),
        (
            (
                rule,
                *(f"{answers['rules', f'{rule} R={r}']} ({variants[f'{rule} R={r}'].alpha:g})" for r in BATCH_OF),
                f"{fmean(answers['rules', f'{rule} R={r}'].mean for r in BATCH_OF):.3f}",
            )
            for rule in RULE_ALPHAS
        ),
    )


def _rule_tuning(answers: Answers) -> str:
    """All tuning runs of the rules."""
    return table(
        ("rule", "R", *(f"candidate {i + 1}" for i in range(len(next(iter(RULE_ALPHAS.values())))))),
        (
            (
                rule,
                peers,
                *(f"α {c.alpha:g}: {answers.rows[c].final:.3f}" for c in rule_candidates(answers.rows, rule, peers)),
            )
            for rule in RULE_ALPHAS
            for peers in BATCH_OF
        ),
    )


def _same_batch(answers: Answers) -> str:
    """The rules where every peer has the usual batch."""
    return table(
        ("rule", *(f"R = {peers}, {which}" for peers in SAME_BATCH_PEERS for which in ("lower α", "higher α"))),
        (
            (
                rule,
                *(
                    f"{answers.rows[c].final:.3f} (α {c.alpha:g})"
                    for peers in SAME_BATCH_PEERS
                    for c in same_batch_candidates(answers.rows, rule, peers)
                ),
            )
            for rule in RULE_ALPHAS
        ),
    )


def _rules(answers: Answers) -> str:
    best, variants = answers.best_rule(), answers.tables["rules"]
    fixed = table(
        ("rule", "best α for all R", "mean loss over R"),
        ((rule, f"{alpha:g}", f"{loss:.3f}") for rule in RULE_ALPHAS for alpha, loss in [answers.one_alpha(rule)]),
    )
    harm = table(
        ("rule", "no cap", f"cap {Variant().scale_cap:g}"),
        ((rule, *(answers.damage(rule, cap).signed() for cap in (0.0, Variant().scale_cap))) for rule in RULE_ALPHAS),
    )
    return f"""## 2. The outer rule

Three ways to turn R updates into one step, with s the weighted sum of what c of the R peers sent for an entry: `mean` s/R,
`sender_mean` s/c, `damped_mean` s/√(c·R). Each at its own best α of four, for each R; 16 windows an inner step in all (32 for R = 32),
{variants[f"{best} R=4"].rounds} rounds.

{_rule_losses(answers)}

![Loss by number of peers for each rule](img/results-rules.svg)

But a run's spec has one α, and how many peers are accepted changes from round to round. With one α for all R:

{fixed}

So **`{best}`** is the default of the run spec and of the presets; its α is looked at again below. The tuning runs behind both tables,
one seed each:

{_rule_tuning(answers)}

More peers had smaller batches above, so their updates were noisier. With the usual 4 windows each, on the tuning seed alone:

{_same_batch(answers)}

Lowest there: {", ".join(f"`{lead[0]}` for R = {r} (α {lead[1]:g})" for r, lead in _leaders(answers).items())}. A rule whose α is chosen for
each R can do better than one with a fixed α; but over all of these settings `{best}` with its one α is never more than
{_regret(answers, best):.2f} above the best rule at its best α.

One attacker among eight honest peers sends values 20 times the largest at entries that nobody else sends. The clip to the
median norm is on in every row, and the attacker's update counts for that much less. How much the final loss rises:

{harm}

![What one attacker does to each rule, with and without the scale cap](img/results-attacks.svg)"""


def _leaders(answers: Answers) -> dict[int, tuple[Rule, float]]:
    """The best rule and its α by number of peers, at the usual batch."""
    leaders: dict[int, tuple[Rule, float]] = {}
    for peers in SAME_BATCH_PEERS:
        played = [c for rule in RULE_ALPHAS for c in same_batch_candidates(answers.rows, rule, peers)]
        lead = min(played, key=lambda candidate: answers.rows[candidate].final)
        leaders[peers] = (lead.rule, lead.alpha)
    return leaders


def _regret(answers: Answers, rule: Rule) -> float:
    """How far a rule with its one α is above the best of all rules and α, in the worst setting of the tuning seed."""
    rows, (alpha, _) = answers.rows, answers.one_alpha(rule)
    settings = [[c for other in RULE_ALPHAS for c in rule_candidates(rows, other, peers)] for peers in BATCH_OF]
    settings += [
        [c for other in RULE_ALPHAS for c in same_batch_candidates(rows, other, peers)] for peers in SAME_BATCH_PEERS
    ]
    return max(
        rows[candidate].final - min(rows[c].final for c in played)
        for played in settings
        for candidate in played
        if (candidate.rule, candidate.alpha) == (rule, alpha)
    )


def _horizons(answers: Answers) -> str:
    variants = answers.tables["horizons"]
    rows = ((label, variants[label].rounds, answers["horizons", label], play(variants[label])) for label in variants)
    return f"""## 3. Inner steps, error feedback, and what else there is

H at equal tokens: fewer rounds for more inner steps.

{table(("run", "rounds", "loss", "command"), rows)}

![Loss by H for DiLoCo and SparseLoCo](img/results-horizons.svg)"""


def _ablations(answers: Answers) -> str:
    return f"""Parts of the algorithm, each taken away or changed; outer momentum and the sign have an α of their own, tuned.

{difference_table(answers, "ablations", "β=0.95")}

![What each part is worth](img/results-ablations.svg)"""


def _churn(answers: Answers) -> str:
    return f"""## 4. Peers that come, go and differ

A peer that is absent does nothing that round; late peers join at half-time with cold optimizers; uneven peers manage ¼, ½, ¾ and all
of H. A lost submission was trained but not accepted: error feedback then either waits for the record, or gives up what
was sent as if it had arrived (the protocol's way: it was better here).

{difference_table(answers, "churn", "all present")}

![What churn costs](img/results-churn.svg)"""


def _optimizers(answers: Answers) -> str:
    return f"""## 5. AdamW or Muon inside

Each tuned on its own. Muon trains the matrices inside the blocks, AdamW the rest.

{difference_table(answers, "optimizers", "diloco adamw")}"""


def _lengths(answers: Answers) -> str:
    def row(rounds: int) -> tuple[object, ...]:
        ddp, diloco, sparse = (
            answers["lengths", f"{method} {rounds} rounds"] for method in ("ddp", "diloco", "sparse")
        )
        return rounds, ddp, diloco, sparse, sparse.minus(ddp).signed(), sparse.minus(diloco).signed()

    header = ("rounds", "data-parallel", "DiLoCo", "SparseLoCo", "SparseLoCo above data-parallel", "above DiLoCo")
    return f"""## 6. Does it catch up?

The gap to data-parallel training is largest early, while θ is still far from anything and every local step would want to
know of the others. The same methods in shorter and longer runs, at the rates tuned for {Variant().rounds} rounds:

{table(header, (row(rounds) for rounds in LENGTHS))}

![SparseLoCo, DiLoCo and data-parallel training by length of the run](img/results-lengths.svg)"""


def _caveats(answers: Answers) -> str:
    spec = load_template(str(STUDY))
    grid = layout_of(spec.model).grid
    diverged = [variant.id for variant, row in answers.rows.items() if not math.isfinite(row.final)]
    divergence = f" {len(diverged)} runs diverged, all of them kept in the file." if diverged else ""
    edges = [f"{way.method} ({way.optimizer})" for way in WAYS if _at_edge(answers, way.candidates())]
    tuned = ", ".join(edges) or "none"
    return f"""## What this cannot show

- **Scale.** {layout_of(spec.model).parameters:,} parameters in {grid.tiles} tiles are not a billion. Top-k of 4096 is as dense as in a large
  run, but most tensors here are one tile wide; what large models gain from sparsity, or lose, is not measured.
- **Length.** A run sees {_tokens():.1f} million tokens. Late training, where steps are small and momentum matters most, hardly occurs;
  DiLoCo's outer momentum pays later than 48 rounds.
- **Tuning.** Eight candidates a method leave something to be found; a winner at the edge of its grid most of all ({tuned}).
- **Versions.** Some rows were played before clips went by tensor. Replays agree within what seeds do, but not to the bit.
- **Noise.** Differences of less than about 0.01 nat/byte are within what seeds do.
- **Text.** One kind of text, in bytes; all peers draw from the same distribution.{divergence}
- **Time.** Nothing here is about seconds: what a round costs on a network is [benchmarks](../benchmarks/README.md)' matter."""


def _at_edge(answers: Answers, candidates: list[Variant]) -> bool:
    """Whether the best inner rate is the lowest or the highest tried."""
    rates = sorted({candidate.lr for candidate in candidates})
    best = min(candidates, key=lambda candidate: answers.rows[candidate].final)
    return best.lr in (rates[0], rates[-1])


def _tokens() -> float:
    variant, spec = Variant(), load_template(str(STUDY))
    return variant.peers * variant.rounds * variant.steps * variant.batch * spec.data.window / 1e6
