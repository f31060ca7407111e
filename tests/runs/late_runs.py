"""A script of faults by which a miner's payload comes a round late, every time."""

from __future__ import annotations

from collections.abc import Callable

from muster.lab.faults import Fault, Request, Script


class ComesLate(Script):
    """Whose bucket takes no payload of a round, from round `since` on, before a later round is open."""

    def __init__(self, name: str, since: int) -> None:
        super().__init__([Fault("error", "store.put", "*.sub", who=name, owner=name)])
        self._since = since
        self.open_round: Callable[[], int] = lambda: 0
        """The round that is open now."""

    def before(self, request: Request, height: int) -> Fault | None:
        if not self.faults[0].concerns(request):
            return super().before(request, height)
        round_ = int(request.key.rpartition("/")[2].removesuffix(".sub"))
        if round_ < self._since or round_ < self.open_round():
            return None
        return super().before(request, height)
