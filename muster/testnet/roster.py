"""Who takes part in a local run, and the run spec they agree on: the same for real processes and the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.node.data.build import Manifest
from muster.node.replica import genesis_root
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import UsageError
from muster.protocol.identity import Identity, derive_seed
from muster.protocol.spec import ChainSpec, GenesisSpec, RunSpec, Template
from muster.protocol.types import Origin

HONEST = "honest"
OPERATOR_STAKE = 1_000_000_000
"""Stake of every validator operator, in the chain's smallest unit; equal stakes, so equal say."""


@dataclass(frozen=True, slots=True)
class Member:
    """One hotkey of a run: its plain name (also its bucket's), and how it behaves."""

    name: str
    seed: bytes
    identity: Identity
    behaviour: str = HONEST

    @property
    def hotkey(self) -> str:
        """Its ss58 address."""
        return self.identity.hotkey


@dataclass(frozen=True, slots=True)
class Roster:
    """Everybody in a local run, in registration order (so uids are the same every time).

    An operator holds one hotkey and runs two participants with it: a validator and an aggregator.
    """

    seed: int
    operators: tuple[Member, ...]
    miners: tuple[Member, ...]

    @classmethod
    def of(cls, seed: int, miners: int, validators: int, adversaries: Mapping[str, int]) -> Roster:
        """Honest miners, then adversaries by name.

        Raises:
            UsageError: a run without miners or validators, or more of them than a local run can hold.
        """
        if miners + sum(adversaries.values()) < 1 or validators < 1:
            raise UsageError("a run needs at least one miner and one validator")

        def member(name: str, behaviour: str = HONEST) -> Member:
            secret = derive_seed(seed, name)
            return Member(name, secret, Identity(secret), behaviour)

        bad = [
            member(f"{behaviour}-{i}", behaviour)
            for behaviour, count in sorted(adversaries.items())
            for i in range(count)
        ]
        return cls(
            seed,
            operators=tuple(member(f"operator-{i}") for i in range(validators)),
            miners=(*(member(f"miner-{i}") for i in range(miners)), *bad),
        )

    @property
    def owner(self) -> Member:
        """Who may amend the run; it takes no part in it."""
        secret = derive_seed(self.seed, "owner")
        return Member("owner", secret, Identity(secret))

    @property
    def members(self) -> tuple[Member, ...]:
        """Every hotkey, operators first."""
        return (*self.operators, *self.miners)

    def chain_genesis(self, slots: int) -> ChainGenesis:
        """The local chain this roster lives on: operators have stake, nobody else does."""
        return ChainGenesis(
            seed=self.seed,
            stakes={operator.hotkey: OPERATOR_STAKE for operator in self.operators},
            slots=slots,
            weights_rate_limit=1,
        )

    def check_fits(self, template: Template) -> None:
        """Raise UsageError if there are more participants than a run of the template has data slots for."""
        if len(self.members) > template.data.slots:
            raise UsageError(
                f"{len(self.members)} participants do not fit the {template.data.slots} slots of preset {template.name}"
            )

    def spec(self, template: Template, manifest: Manifest, block: int = 0, origin: Origin | None = None) -> RunSpec:
        """The run spec: the template with this roster, its seed and this text filled in.

        Round 0 opens at `block` of the chain `origin`, None for the local chain of this seed.

        Raises:
            UsageError: more participants than the run has data slots for.
        """
        self.check_fits(template)
        return fill_template(
            template,
            manifest,
            seed=self.seed,
            chain=ChainSpec.of(origin or ChainGenesis(seed=self.seed).origin),
            block=block,
            miners=tuple(miner.hotkey for miner in self.miners),
            leaders=tuple(operator.hotkey for operator in self.operators),
            owner=self.owner.hotkey,
        )


def fill_template(
    template: Template,
    manifest: Manifest,
    *,
    seed: int,
    chain: ChainSpec,
    block: int,
    miners: tuple[str, ...],
    leaders: tuple[str, ...],
    owner: str,
) -> RunSpec:
    """A template with its genesis and text: from then on it is one particular run."""
    data = template.data.model_copy(
        update={
            "manifest": manifest.digest,
            "windows": manifest.windows,
            "heldout": manifest.heldout_windows,
        }
    )
    genesis = GenesisSpec(
        seed=seed,
        chain=chain,
        block=block,
        root=genesis_root(template.model, seed).hex(),
        miners=miners,
        leaders=leaders,
        owner=owner,
    )
    fields = {name: getattr(template, name) for name in Template.model_fields}
    return RunSpec(**{**fields, "data": data, "genesis": genesis})
