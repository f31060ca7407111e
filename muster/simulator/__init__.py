"""Any number of participants in one process: the fast test bed of everything, and the second witness of a run."""

from muster.simulator.simulator import SimulatedRun, Simulator

__all__ = ["SimulatedRun", "Simulator"]
