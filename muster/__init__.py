"""Train one large model together with anyone who shows up.

Importing this package imports nothing else: a room (`muster.kernels`, `muster.protocol`, `muster.node`,
`muster.validator`) is loaded when it is first asked for (PEP 562).
"""

from __future__ import annotations

import importlib
from types import ModuleType

_ROOMS = ("kernels", "node", "protocol", "validator")


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *_ROOMS))
