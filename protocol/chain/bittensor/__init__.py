"""Bittensor as the chain; nothing outside this package imports its SDK.

The SDK takes a second to load, and a run on a local chain never needs it: so importing this package loads nothing, and
what it exports is loaded when it is first asked for (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.protocol.chain.bittensor.client import BittensorChain
    from muster.protocol.chain.bittensor.setup import set_up_subnet

__all__ = ["BittensorChain", "set_up_subnet"]

_MODULES = {"BittensorChain": "client", "set_up_subnet": "setup"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
