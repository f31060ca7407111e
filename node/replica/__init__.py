"""θ and everything that is made of it: where it begins, how it moves, how it is kept."""

from muster.node.replica.local import EVAL_BATCH, Replica, Spool, genesis_root

__all__ = ["EVAL_BATCH", "Replica", "Spool", "genesis_root"]
