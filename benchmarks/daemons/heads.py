"""What judging a crowd's heads costs a leader, with the assignment of the 72b preset: 5760 windows each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leader import header_of, stand
from two_builds import of, roster_of

from daemons.closed_round import forget, laid_out
from daemons.units import cpu_seconds

PEERS = 256
"""Heads that a leader of the 72b run may get: as many as the preset has slots."""
AT_ONCE_BEFORE = 32
"""Heads that the build before judges in a turn; told as if it were all of them, each of which costs it the same."""


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:  # noqa: ARG001 - heads have no size
    """The heads of a round of `PEERS` peers that take slots and windows as in `72b`; a turn judges them.

    Of θ, `tiny`'s, a judge needs the 64 tiles of a possession proof: 1 MiB, as of any model that has so many. The text
    has as many windows as the peers need only by its spec: judging a head reads none.
    """
    preset = of("muster.protocol.spec:load_template")("72b")
    count = preset.inner.steps * preset.inner.batch
    stage = laid_out(folder, PEERS - 1, data={"window": 32, "slots": preset.data.slots})
    _, history, tip = asyncio.run(stand(stage))
    replica = of("muster.node.replica:Replica").genesis(stage.spec, history.run_id)
    data = stage.spec.data.model_copy(update={"windows": (preset.data.slots + 1) * count})
    inner = stage.spec.inner.model_copy(update={"steps": preset.inner.steps, "batch": preset.inner.batch})
    spec = stage.spec.model_copy(update={"data": data, "inner": inner})
    members = roster_of(stage).members
    heads = [_head(spec, tip, replica, (uid, member), count) for uid, member in enumerate(members)]
    admission = of("muster.protocol.rules.admission")
    before = not hasattr(tip, "codec")
    taken = heads[:AT_ONCE_BEFORE] if before else heads

    def possession(public: bytes) -> bytes:
        proof: bytes = replica.possession(tip.opening.possess.value, public, tip.round)
        return proof

    facts = admission.RoundFacts(tip.run_id, spec, tip.layout, tip.opening, possession)

    def judge() -> None:
        for member, head in zip(members, taken, strict=False):
            admission.admit(facts, member.identity.public, head)

    def turn() -> dict[str, float]:
        forget()
        return {"judging_s": cpu_seconds(judge) * PEERS / len(taken)}

    return turn


def _head(spec: Any, tip: Any, replica: Any, by: tuple[int, Any], count: int) -> bytes:
    """The head of a peer whose payload is nothing that anybody looks at."""
    wire, identity, ciphertext = of("muster.protocol.wire"), by[1].identity, bytes(1000)
    header = header_of(spec, tip, replica, by, ciphertext, count)
    if hasattr(wire, "encode_head"):
        head: bytes = wire.encode_head(header, identity)
        return head
    whole: bytes = wire.encode(header, identity, ciphertext)
    return whole[: -len(ciphertext)]
