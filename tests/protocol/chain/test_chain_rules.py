"""What the rules refuse that no honest client sends: forged or replayed extrinsics, an impossible genesis."""

from dataclasses import replace
from typing import Any

import pytest

from muster.protocol.chain import rules
from muster.protocol.chain.rules import ChainGenesis, ChainState, Commit, Register
from muster.protocol.errors import ChainError
from muster.protocol.identity import Identity

ALICE, BOB, CAROL = (Identity.derive(1, name) for name in ("a", "b", "c"))
GENESIS = ChainGenesis(seed=7, stakes={ALICE.hotkey: 60, BOB.hotkey: 40})


class TestExtrinsics:
    def signed(self, genesis: ChainGenesis = GENESIS) -> rules.Extrinsic:
        return rules.sign(genesis, ChainState(), ALICE, Register())

    def test_a_signature_holds_for_its_call_only(self) -> None:
        with pytest.raises(ChainError, match="signature"):
            rules.apply(GENESIS, ChainState(), replace(self.signed(), call=Commit("x")), 0)

    def test_a_signature_holds_for_its_signer_only(self) -> None:
        with pytest.raises(ChainError, match="signature"):
            rules.apply(GENESIS, ChainState(), replace(self.signed(), public=BOB.public), 0)

    def test_a_signature_holds_for_its_chain_only(self) -> None:
        with pytest.raises(ChainError, match="signature"):
            rules.apply(GENESIS, ChainState(), self.signed(ChainGenesis(8)), 0)

    def test_an_extrinsic_cannot_be_replayed(self) -> None:
        extrinsic = self.signed()
        state, _ = rules.apply(GENESIS, ChainState(), extrinsic, 0)
        with pytest.raises(ChainError, match="nonce 1, not 0"):
            rules.apply(GENESIS, state, extrinsic, 0)

    def test_permits_go_to_the_largest_stakes(self) -> None:
        genesis = replace(GENESIS, max_validators=1)
        state = ChainState()
        for identity in (BOB, ALICE, CAROL):
            state, _ = rules.apply(genesis, state, rules.sign(genesis, state, identity, Register()), 0)
        assert rules.permitted(genesis, state) == (1,)
        assert rules.permitted(GENESIS, state) == (0, 1)

    @pytest.mark.parametrize(
        "wrong",
        [{"seed": -1}, {"tempo": 0}, {"slots": 2**53}, {"stakes": {"x": 1}}, {"stakes": {ALICE.hotkey: -1}}],
    )
    def test_a_genesis_out_of_range_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ChainError):
            replace(GENESIS, **wrong)
