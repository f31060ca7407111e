"""Scripted faults at named points, so that crashes and storage failures are repeatable instead of hoped for.

`MUSTER_FAULTS` holds comma-separated faults, each `POINT:ACTION[@FIRST][*TIMES]`: from the FIRST time the
process passes POINT (default 1), TIMES times (default 1), do ACTION. `error` raises `StorageError`; `crash`
ends the process at once with status 70, as a power cut would. Examples: `submit.before_key:crash`,
`seal.before_put:error*3`, `train.step:crash@40`. The idea is Core Lightning's scripted disconnects.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from muster.protocol.errors import ConfigError, StorageError

VARIABLE = "MUSTER_FAULTS"
CRASH_STATUS = 70
"""Exit status of a scripted crash (EX_SOFTWARE of sysexits.h); no `MusterError` uses it."""

FAULT_POINTS = (
    "submit.before_save",
    "submit.before_put",
    "submit.before_key",
    "seal.before_put",
    "record.before_put",
    "bundle.before_put",
    "apply.before",
    "score.before_commit",
    "score.before_put",
    "score.before_weights",
    "score.before_done",
    "train.step",
)

_FAULT = re.compile(
    r"(?P<point>[a-z_.]+):(?P<action>crash|error)(?:@(?P<first>[1-9]\d{0,8}))?(?:\*(?P<times>[1-9]\d{0,8}))?",
    re.ASCII,
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """Do `action` on passes `first` … `first + times − 1` of `point` (passes count from 1)."""

    point: str
    action: Literal["crash", "error"]
    first: int = 1
    times: int = 1


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults in the text of `MUSTER_FAULTS`, in order; none for an empty text.

    Raises:
        ConfigError: not the format above, or a point that does not exist.
    """
    return tuple(_parse_one(part.strip()) for part in text.split(",")) if text.strip() else ()


def _parse_one(text: str) -> Fault:
    match = _FAULT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{VARIABLE}: {text!r} is not POINT:crash or POINT:error, with @FIRST or *TIMES if wanted")
    if match["point"] not in FAULT_POINTS:
        raise ConfigError(f"{VARIABLE}: no fault point {match['point']!r}; there are: {', '.join(FAULT_POINTS)}")
    action: Literal["crash", "error"] = "crash" if match["action"] == "crash" else "error"
    return Fault(match["point"], action, int(match["first"] or 1), int(match["times"] or 1))


class Faults:
    """What this process has been told to break; without arguments, nothing."""

    def __init__(self, faults: Iterable[Fault] = (), *, crash: Callable[[int], object] = os._exit) -> None:
        """Script `faults`; `crash` is called with `CRASH_STATUS` and does not return in a real process."""
        self._faults = tuple(faults)
        self._crash = crash
        self._passes: Counter[str] = Counter()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Faults:
        """The faults in `MUSTER_FAULTS`; raises `ConfigError` if it is not valid."""
        return cls(parse_faults(environment.get(VARIABLE, "")))

    def trip(self, point: str) -> None:
        """Pass `point`: does nothing, raises `StorageError`, or ends the process, as scripted."""
        assert point in FAULT_POINTS, point
        self._passes[point] += 1
        for fault in self._faults:
            if fault.point == point and fault.first <= self._passes[point] < fault.first + fault.times:
                if fault.action == "error":
                    raise StorageError(f"scripted fault at {point} (unset {VARIABLE} to run without)")
                _log.critical("scripted crash at %s (%s)", point, VARIABLE)
                self._crash(CRASH_STATUS)
