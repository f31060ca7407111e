"""Bittensor as the chain; nothing outside this package imports its SDK, which takes a second to load."""

from muster.protocol.chain.bittensor.client import BittensorChain
from muster.protocol.chain.bittensor.setup import set_up_subnet

__all__ = ["BittensorChain", "set_up_subnet"]
