"""`spec.at(round)`: the genesis spec with every amendment that has taken effect by then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import rfc8785
from pydantic import ValidationError

from muster.protocol.errors import LedgerError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec, first_problem
from muster.protocol.wire import Amendment

AMENDABLE = frozenset(
    {
        "inner.steps", "inner.lr", "inner.final_lr", "inner.total",
        "sparse.k",
        "outer.alpha", "outer.scale_cap",
        "gauntlet.seats", "gauntlet.eval_windows", "gauntlet.score_wait",
        "clock.min_blocks", "clock.deadline", "clock.reveal", "clock.min_submissions", "clock.checkpoint_every",
    }
)  # fmt: skip
"""What may change while a run lives: nothing that would change the meaning of θ or of past records."""


@dataclass(frozen=True, slots=True)
class SpecHistory:
    """A run's spec over time. Immutable: adopting an amendment gives a new history."""

    genesis: RunSpec
    run_id: bytes
    amendments: tuple[Amendment, ...] = ()

    @classmethod
    def of(cls, genesis: RunSpec) -> SpecHistory:
        """The history a run begins with."""
        return cls(genesis, genesis.run_id())

    def at(self, round_: int) -> RunSpec:
        """The spec in force in a round."""
        spec = self.genesis
        for amendment in self.amendments:
            if amendment.round <= round_:
                spec = _amended(spec, amendment)
        return spec

    def adopt(self, amendment: Amendment, recorded_in: int) -> SpecHistory:
        """The history with one more amendment, which stands in the record of round `recorded_in`.

        Raises:
            LedgerError: not the owner's, a field that may not change, too soon, or the result is not a valid spec.
        """
        if amendment.signer != public_of(self.genesis.genesis.owner):
            raise LedgerError("an amendment must be signed by the run's owner")
        if amendment.path not in AMENDABLE:
            raise LedgerError(f"{amendment.path} cannot be amended")
        if amendment.round < recorded_in + self.at(recorded_in).clock.amend_delay:
            raise LedgerError(f"an amendment recorded in round {recorded_in} takes effect too soon ({amendment.round})")
        grown = SpecHistory(self.genesis, self.run_id, (*self.amendments, amendment))
        # An amendment recorded before may take effect after this one, and the two may not go together.
        for round_ in sorted({known.round for known in grown.amendments if known.round >= amendment.round}):
            grown.at(round_)
        return grown


def _amended(spec: RunSpec, amendment: Amendment) -> RunSpec:
    section, key = amendment.path.split(".")
    document: dict[str, Any] = spec.model_dump(mode="json")
    try:
        document[section][key] = json.loads(amendment.value)
        return RunSpec.model_validate_json(rfc8785.dumps(document))
    except ValidationError as error:
        raise LedgerError(f"an amendment of {amendment.path} is not valid: {first_problem(error)}") from error
    except (json.JSONDecodeError, rfc8785.CanonicalizationError, RecursionError) as error:
        raise LedgerError(f"the value of an amendment of {amendment.path} is not JSON") from error
