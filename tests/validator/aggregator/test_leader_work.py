"""What a leader does once a round, however often it looks and whatever it asks of the same head."""

from __future__ import annotations

from collections import Counter

import pytest
from builders import MINERS
from leader_world import World, play

from muster.protocol import wire
from muster.protocol.rules import admission
from muster.protocol.rules.admission import RoundFacts
from muster.validator.aggregator import intake


def test_each_head_is_judged_once_from_the_first_look_to_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: Counter[bytes] = Counter()

    def judging(facts: RoundFacts, owner: bytes, head: bytes) -> wire.Signed:
        judged[head] += 1
        return admission.admit(facts, owner, head)

    async def main() -> None:
        world = await World.begin()
        await world.lead()
        first, _ = await world.followed(1)
        assert len(first.accepted) == len(MINERS)
        assert judged == {entry.head: 1 for entry in first.entries}

    monkeypatch.setattr(intake, "admit", judging)
    play(main())
