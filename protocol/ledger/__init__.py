"""The ledger: what makes a record valid, where the ledger stands after it, and the machine that drives one round."""

from muster.protocol.ledger.bundle import check_bundle, check_bundle_size
from muster.protocol.ledger.judge import (
    NO_CHECKPOINT,
    Admit,
    Applied,
    OpenAccepted,
    adopt_amendments,
    adopt_proofs,
    advance,
    check_link,
    check_seal,
    open_bundle,
    prepare,
    verify,
)
from muster.protocol.ledger.rescue import kept_under, rescuer
from muster.protocol.ledger.resume import resume, tip_info, with_held
from muster.protocol.ledger.sealing import continues, unanswerable
from muster.protocol.ledger.tip import RESCUE, SCORES_AGE, Possession, Tip, genesis_tip, next_opening, spec_digest

__all__ = [
    "NO_CHECKPOINT",
    "RESCUE",
    "SCORES_AGE",
    "Admit",
    "Applied",
    "OpenAccepted",
    "Possession",
    "Tip",
    "adopt_amendments",
    "adopt_proofs",
    "advance",
    "check_bundle",
    "check_bundle_size",
    "check_link",
    "check_seal",
    "continues",
    "genesis_tip",
    "kept_under",
    "next_opening",
    "open_bundle",
    "prepare",
    "rescuer",
    "resume",
    "spec_digest",
    "tip_info",
    "unanswerable",
    "verify",
    "with_held",
]
