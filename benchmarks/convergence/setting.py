"""The setting all runs of the study share: its presets, its text, and the spec a variant makes of them."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from benchmarks.convergence.variant import Model, Variant
from muster.node.data.build import Manifest, build_corpus
from muster.node.data.dataset import TextReader
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.rules.assignment import assigned
from muster.protocol.spec import DataSpec, RunSpec, Template, load_template
from muster.testnet.roster import Roster

STUDY = Path(__file__).with_name("study.toml")
PRESETS: Mapping[Model, Path] = {"study": STUDY, "larger": STUDY.with_name("larger.toml")}
_OPERATORS = 1
"""Slot 0 is the operator's, as in a testnet of one validator, so miners have the slots from 1."""
_CACHED_SHARES = 1 << 14
"""A round's windows are the same in all variants of a seed; so many peers' are remembered, 60 ids each."""


def open_text(folder: Path, window: int) -> TextReader:
    """Python's own sources as the study's text, written to `folder` by whoever comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manifest = build_corpus(None, folder, window)
    return TextReader.open(folder, manifest.digest)


def text_of(model: Model, folder: Path) -> TextReader:
    """The study's text in windows of a model's own length, below `folder`."""
    return open_text(folder / model, load_template(str(PRESETS[model])).data.window)


def roster_of(variant: Variant) -> Roster:
    """Who takes part; attackers are the last miners."""
    return Roster.of(variant.seed, variant.peers + variant.attackers, _OPERATORS, {})


def spec_of(variant: Variant, manifest: Manifest, template: Template | None = None) -> RunSpec:
    """The run spec of a variant: what Muster itself would be given to run it, as far as it can."""
    template = template or load_template(str(PRESETS[variant.model]))
    inner = template.inner
    update = {
        "inner": inner.model_copy(
            update={
                "optimizer": variant.optimizer,
                "steps": variant.steps,
                "batch": variant.batch,
                "lr": variant.lr,
                "final_lr": inner.final_lr * variant.lr / inner.lr,
                "total": variant.rounds * variant.steps,
            }
        ),
        "sparse": template.sparse.model_copy(update={"k": variant.k, "error_decay": variant.beta}),
        "outer": template.outer.model_copy(
            update={"rule": variant.rule, "alpha": ((0, variant.alpha),), "scale_cap": variant.scale_cap}
        ),
    }
    return roster_of(variant).spec(template.model_copy(update=update), manifest)


@lru_cache(_CACHED_SHARES)
def windows_of(seed: int, round_: int, uid: int, data: DataSpec, count: int) -> tuple[int, ...]:
    """The windows of a peer's full round, as the chain's beacon assigns them."""
    return tuple(assigned(ChainGenesis(seed=seed).beacon("assign", round_), uid, data, count))
