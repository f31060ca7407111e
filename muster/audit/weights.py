"""The weights that the chain shows of each validator are those that follow from a file that it published.

Which file is not for the chain to say: it takes weights seldom and may refuse them, and what a newer round would have
set comes later or never.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster.audit.evidence import Evidence
from muster.audit.report import Fault, FaultClass, FaultLog
from muster.audit.scores import ScoreFiles
from muster.protocol.incentive.pay import chain_weights
from muster.protocol.wire import ScoreFile

OBJECT = "the weights on the chain"

SIBLING_ROUNDS = 16
"""Rounds before and after the newest in which a validator's files of other records are looked at: its weights are
seldom older, and what is not anchored yet is seldom newer."""


class ShownWeights:
    """What the chain showed before any file was read, held against the files as they are read: an honest validator
    sets weights after it has published what they follow from."""

    def __init__(self, evidence: Evidence, faults: FaultLog) -> None:
        self._evidence = evidence
        self._faults = faults
        self._looked: set[str] = set()
        self._shown: dict[str, Mapping[int, int]] = {}
        self._round: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._away: set[str] = set()

    async def look(self) -> None:
        """See what the chain shows of each validator; of those that were looked at before nothing is looked at again.

        Raises:
            ChainError: it cannot be read.
        """
        for hotkey in self._evidence.validators:
            if hotkey in self._looked:
                continue
            self._looked.add(hotkey)
            shown = await self._evidence.weights(hotkey)
            if shown is None:
                self._faults.remark(None, hotkey, "its weights cannot be seen on this chain, and were not compared")
            else:
                self._shown[hotkey] = shown

    def take(self, files: Mapping[str, ScoreFile], round_: int) -> None:
        """Compare with the files of a round, by validator; later ones count for more."""
        self._away |= {hotkey for hotkey in self._shown if hotkey not in files or files[hotkey].round != round_}
        for hotkey, file in files.items():
            if file.round != round_ or hotkey not in self._shown:
                continue
            weights = self._left_of(file)
            if weights is None:
                continue
            self._newest[hotkey] = round_
            if weights == self._shown[hotkey]:
                self._round[hotkey] = round_

    async def tell(self, files: ScoreFiles, whole: bool) -> None:
        """What came of it; `whole` says that the files of all rounds were read, out of `files`."""
        for hotkey, shown in self._shown.items():
            newest, found = self._newest.get(hotkey), self._round.get(hotkey)
            if not shown and newest is not None:
                self._faults.remark(None, hotkey, "the chain shows no weights of it, and its files would set some")
            elif shown and found is None and (hotkey in self._away or newest is None or not whole):
                self._faults.remark(None, hotkey, "its weights on the chain were not compared: files are missing")
            elif shown and found is None and await self._elsewhere(files, hotkey, shown):
                said = "its weights on the chain are those of its file of a record that is not of the run, or not yet"
                self._faults.remark(None, hotkey, said)
            elif shown and found is None:
                problem = "they follow from none of its score files"
                self._faults.add(Fault(FaultClass.SCORES, None, OBJECT, problem, hotkey))
            elif shown and found != newest:
                said = f"its weights on the chain are those of round {found}; its file of round {newest} sets others"
                self._faults.remark(None, hotkey, said)

    def _left_of(self, file: ScoreFile) -> Mapping[int, int] | None:
        """What a chain shows by now of the weights that follow from a file; None where it sets none.

        A chain forgets what was meant for the last holder of a slot.
        """
        now = {peer.uid: hotkey for hotkey, peer in self._evidence.peers.items()}
        holders = {row.uid: row.hotkey for row in file.rows}
        shares, uids = {row.hotkey: row.incentive for row in file.rows}, {row.hotkey: row.uid for row in file.rows}
        weights = chain_weights(shares, uids)
        return {uid: weight for uid, weight in weights.items() if now.get(uid) == holders[uid]} if weights else None

    async def _elsewhere(self, files: ScoreFiles, hotkey: str, shown: Mapping[int, int]) -> bool:
        """Whether a validator's weights follow from what it said of a record taken back, or of one not anchored yet."""
        last = self._newest[hotkey]
        for round_ in range(last + SIBLING_ROUNDS, max(last - SIBLING_ROUNDS, -1), -1):
            for file in await files.all_of(hotkey, round_):
                if self._left_of(file) == shown:
                    return True
        return False
