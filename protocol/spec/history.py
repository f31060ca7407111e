"""`spec.at(round)`: the genesis spec with every amendment that has taken effect by then.

All code asks for the spec of a round, many times in each, and it changes a few times in a run: so each spec is made
once, when the amendment that makes it is adopted, and asking is a look into a short table.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rfc8785
from pydantic import ValidationError

from muster.protocol.errors import LedgerError, WireError
from muster.protocol.identity import public_of
from muster.protocol.spec import RunSpec, first_problem
from muster.protocol.wire import Amendment, decode_amendment

AMENDABLE = frozenset(
    {
        "inner.steps", "inner.lr", "inner.final_lr", "inner.total", "inner.decay_from", "inner.decay_steps",
        "sparse.k",
        "outer.alpha", "outer.scale_cap", "outer.age_weights",
        "gauntlet.seats", "gauntlet.eval_windows", "gauntlet.score_wait",
        "clock.min_blocks", "clock.deadline", "clock.reveal", "clock.min_submissions", "clock.checkpoint_every",
        "genesis.leaders", "genesis.chain",
    }
)  # fmt: skip
"""What may change while a run lives: nothing that would change the meaning of θ or of past records."""

LEADERS = "genesis.leaders"
"""What a rescue changes."""

NOT_YET = frozenset({"genesis.chain"})
"""Of these, what this release cannot follow: the chain's successor. It refuses it, and a record that holds it, rather
than go on with the chain that everybody else has left."""

Carried = Callable[[frozenset[bytes]], bool]
"""Whether these, the signers of an amendment without the owner, are enough to make it one; see `rules.majority`."""


def owner_alone(_signers: frozenset[bytes]) -> bool:
    """What carries amendments where only the owner's word counts: nobody else's."""
    return False


@dataclass(frozen=True, slots=True)
class Adopted:
    """An amendment that stands in the record of round `recorded_in`, and its bytes as they stand there."""

    amendment: Amendment
    recorded_in: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SpecHistory:
    """A run's spec over time. Immutable: adopting an amendment gives a new history.

    `specs[i]` is in force from round `starts[i]` on, until the next begins; `adopted` is in the order of the records,
    which is that of the amendments' numbers, from 1.
    """

    genesis: RunSpec
    run_id: bytes
    adopted: tuple[Adopted, ...]
    starts: tuple[int, ...]
    specs: tuple[RunSpec, ...]

    @classmethod
    def of(cls, genesis: RunSpec) -> SpecHistory:
        """The history a run begins with."""
        return cls(genesis, genesis.run_id(), (), (0,), (genesis,))

    def at(self, round_: int) -> RunSpec:
        """The spec in force in a round."""
        return self.specs[max(bisect_right(self.starts, round_) - 1, 0)]

    def adopt(
        self, data: bytes, recorded_in: int, carried: Carried = owner_alone, *, rescue: bool = False
    ) -> SpecHistory:
        """The history with one more amendment, a signed object that stands in the record of round `recorded_in`; with
        `rescue` in one that its new list closes.

        Raises:
            LedgerError: not readable, neither the owner's nor carried by its signers, not the next number, a field that
                may not change, too soon, or the result is not a valid spec.
        """
        try:
            amendment = decode_amendment(data, self.run_id)
        except WireError as error:
            raise LedgerError(f"an amendment is not readable: {error}") from error
        self._check(amendment, carried)
        (_check_rescue if rescue else self._check_delay)(amendment, recorded_in)
        table = dict(zip(self.starts, self.specs, strict=True))
        table.setdefault(amendment.round, self.at(amendment.round))
        # What was recorded before may take effect after this one. This one counts on top of it, being recorded later.
        table |= {start: _amended(spec, amendment) for start, spec in table.items() if start >= amendment.round}
        starts = tuple(sorted(table))
        adopted = (*self.adopted, Adopted(amendment, recorded_in, data))
        return SpecHistory(self.genesis, self.run_id, adopted, starts, tuple(table[start] for start in starts))

    def signed_by_owner(self, amendment: Amendment) -> bool:
        """Whether it needs nobody else's signature."""
        return public_of(self.genesis.genesis.owner) in amendment.signers

    def _check(self, amendment: Amendment, carried: Carried) -> None:
        due = len(self.adopted) + 1
        if not self.signed_by_owner(amendment) and not carried(amendment.signers):
            raise LedgerError(
                "an amendment must be signed by the run's owner, or by more than half of its validators with more than "
                "half of the stake"
            )
        if amendment.number != due:
            raise LedgerError(f"amendment {amendment.number} where number {due} is due: each is recorded once")
        if amendment.path not in AMENDABLE:
            raise LedgerError(f"{amendment.path} cannot be amended")
        if amendment.path in NOT_YET:
            raise LedgerError(f"an amendment of {amendment.path} needs a newer release of Muster than this one")

    def _check_delay(self, amendment: Amendment, recorded_in: int) -> None:
        soonest = recorded_in + self.at(recorded_in).clock.amend_delay
        if amendment.round < soonest:
            raise LedgerError(
                f"an amendment recorded in round {recorded_in} takes effect too soon ({amendment.round}): "
                f"at the soonest in round {soonest}"
            )


def _check_rescue(amendment: Amendment, recorded_in: int) -> None:
    if amendment.path != LEADERS or amendment.round != recorded_in + 1:
        due = f"is an amendment of {LEADERS} that counts from round {recorded_in + 1} on"
        raise LedgerError(f"what rescues round {recorded_in} {due}")


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
