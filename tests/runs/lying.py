"""A validator that says otherwise than it measured, and works out everything else from that, so that it all fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from muster.protocol.identity import Identity, public_of
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.sheet import recomputed, state_of
from muster.protocol.spec import RunSpec
from muster.protocol.wire import ScoreFile, encode_scores
from muster.validator.gauntlet import scoring
from muster.validator.gauntlet.evaluation import own_beacon

Lie = Callable[[int, ScoreRow], ScoreRow]
"""(round, row) → the row with other measurements."""


@dataclass(slots=True)
class Liar:
    """Signs `lie` of what it found, from round to round."""

    hotkey: str
    spec: RunSpec
    lie: Lie
    _beacon: bytes = bytes(32)
    _states: Mapping[str, PeerState] = field(default_factory=dict)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the validator with its hotkey sign what it says."""
        monkeypatch.setattr(scoring, "own_beacon", self._own_beacon)
        monkeypatch.setattr(scoring, "encode_scores", self._encode)

    def _own_beacon(self, beacon: bytes, validator: bytes) -> bytes:
        made = own_beacon(beacon, validator)
        if validator == public_of(self.hotkey):
            self._beacon = made
        return made

    def _encode(self, file: ScoreFile, identity: Identity) -> bytes:
        if identity.hotkey != self.hotkey:
            return encode_scores(file, identity)
        rows = tuple(self.lie(file.round, row) for row in file.rows)
        rows = recomputed(self._states, rows, self._beacon, self.spec)
        self._states = {row.hotkey: state_of(row) for row in rows}
        return encode_scores(ScoreFile(file.run_id, file.public, file.round, file.record, file.heldout, rows), identity)
