"""Rounds are scored beside the run: measuring, publishing and setting weights hold up nobody's θ.

A round is measured on the θ it was made from, to which the replica is taken back between two rounds' steps; what it
comes to is committed to the score store in one step, and published from there. One round after the other, each in a
task of its own, so that a record that is taken back takes its scoring with it. Standings follow from those after the
parent of a record, so what was said of a record that is taken back counts for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from muster.node.context import Context
from muster.node.data.dataset import TextReader
from muster.node.ledger.participant import Errands, Step
from muster.node.ledger.reader import EVALUATE
from muster.node.telemetry import events
from muster.protocol import paths
from muster.protocol.errors import ChainError, ObjectMissing, StorageError, WireError
from muster.protocol.incentive.row import PeerState
from muster.protocol.incentive.sheet import state_of
from muster.protocol.ledger import Tip
from muster.protocol.wire import ScoreFile, decode_scores, encode_scores, max_scores_bytes
from muster.validator.gauntlet.checking import Checking, Scored, Theta
from muster.validator.gauntlet.earlier import updates_before
from muster.validator.gauntlet.evaluation import own_beacon
from muster.validator.gauntlet.judging import Case, Judging, late_updates
from muster.validator.gauntlet.overlap import Earlier
from muster.validator.gauntlet.publishing import Publishing, recorded
from muster.validator.gauntlet.score_store import Committed, ScoreStore, Stage
from muster.validator.gauntlet.works import look_through

log = logging.getLogger(__name__)
T = TypeVar("T")

Until = Callable[[], Awaitable[bool]]
"""Whether it is too late; raises ChainError where the chain does not say."""

RETRY_SECONDS = 2.0
"""Before a chain that failed is asked again: it is the only clock there is."""


class GaveUp(Exception):
    """What a round's scoring needs could not be had until its scores steered nothing any more."""


@dataclass(slots=True, eq=False)
class Job:
    """A round to be scored: the step of its record, the held-out loss before it in nat/token, and what the record
    before applied; None where this life of the process has not applied that."""

    step: Step
    heldout: float
    before: Sequence[Earlier] | None
    task: asyncio.Task[None] | None = None

    @property
    def round(self) -> int:
        """Which."""
        return self.step.before.round


class Scoring:
    """The rounds that are to be scored, oldest first, and the one at work."""

    def __init__(self, context: Context, theta: Theta, text: TextReader, store: ScoreStore, spool: Path | None) -> None:
        self._context = context
        self._theta = theta
        self._text = text
        self._store = store
        self._spool = spool
        self._checking = Checking(context, theta, text)
        self._jobs: deque[Job] = deque()
        self._news = asyncio.Event()
        self._ended = False

    @property
    def oldest(self) -> int | None:
        """The oldest round whose θ is still needed: of those that are not scored yet, or looked at in others' files."""
        rounds = (self._jobs[0].round if self._jobs else None, self._checking.oldest)
        return min((round_ for round_ in rounds if round_ is not None), default=None)

    def add(self, job: Job) -> None:
        """A record has been applied."""
        self._jobs.append(job)
        self._news.set()

    def drop(self, round_: int) -> None:
        """The record of a round is taken back, and what was to be said of it with it."""
        self._checking.drop(round_)
        for job in [job for job in self._jobs if job.round == round_]:
            if job.task is None:
                self._jobs.remove(job)
            else:
                job.task.cancel()

    def end(self) -> None:
        """No round follows those there are."""
        self._ended = True
        self._news.set()

    async def run(self, tip: Tip) -> None:
        """Score round after round until there are no more; first, finish what an earlier life had committed."""
        publishing = Publishing(self._context, tip.run_id, self._store)
        for committed in await self._surely(lambda: self._context.offload(self._store.unfinished), tip):
            await self._publish(publishing, committed, tip)
        while not self._ended or self._jobs:
            self._news.clear()
            if not self._jobs:
                await self._news.wait()
                continue
            job = self._jobs[0]
            async with asyncio.TaskGroup() as tasks:
                job.task = tasks.create_task(self._score(job, publishing))
                await asyncio.wait({job.task})
            self._jobs.remove(job)

    async def _surely(self, step: Callable[[], Awaitable[T]], tip: Tip, until: Until | None = None) -> T:
        """Do what needs the chain, a store or the disk, again until they answer.

        Raises:
            GaveUp: it failed, and it is too late (`until`).
        """
        while True:
            try:
                return await step()
            except (ChainError, StorageError) as error:
                log.warning("scoring waits: %s", error)
                problem = f"scoring waits: {error}"
            self._context.journal.note(events.Trouble(tip.round, problem=problem))
            try:
                if until is not None and await until():
                    raise GaveUp(problem)
                await self._context.chain.next_block((await self._context.chain.head()).number)
            except ChainError:
                await asyncio.sleep(RETRY_SECONDS)

    def _late(self, tip: Tip) -> Until:
        """Whether the leader has decided what the scores of a tip's round could steer."""
        return lambda: recorded(self._context, tip, tip.round + tip.spec.gauntlet.lag)

    async def _publish(self, publishing: Publishing, committed: Committed, tip: Tip) -> None:
        async def publish() -> None:
            # As far as an earlier try, or an earlier life, has come.
            known = await self._context.offload(lambda: self._store.find(committed.record))
            await publishing.publish(known or committed, tip, weights=len(self._jobs) < 2)

        await self._surely(publish, tip)

    async def _score(self, job: Job, publishing: Publishing) -> None:
        tip, record, late = job.step.before, job.step.applied.digest, self._late(job.step.before)
        offload, judging = self._context.offload, None
        try:
            committed = await self._surely(lambda: offload(lambda: self._store.find(record)), tip, late)
            if committed is None:
                # What a life whose store is lost has published may have been used, and stands.
                file = await self._surely(lambda: self._own_file(tip, job.round, record), tip, late)
                if file is None:
                    if not math.isfinite(job.heldout):
                        raise GaveUp("the loss of θ is not finite, and no loss after a step can be compared with it")
                    states = await self._surely(lambda: self._states(tip, publishing), tip, late)
                    judging = found = await self._measured(job, states)
                    file = await self._surely(lambda: self._file(job, found), tip)
                made = file

                async def commit() -> Committed:
                    self._context.faults.trip("score.before_commit")
                    return await offload(lambda: self._store.commit(job.round, record, made))

                committed = await self._surely(commit, tip, late)
        except GaveUp as error:
            log.error("the scores of round %d are not published: %s", job.round, error)
            self._context.journal.note(events.Unpublished(job.round, problem=str(error)))
            return
        await self._publish(publishing, committed, tip)
        if judging is not None and judging.measured_works():
            await self._check(job, judging, committed.file)

    async def _check(self, job: Job, judging: Judging, data: bytes) -> None:
        """Look at what others said of this round, and of the one before."""
        tip, applied = job.step.before, job.step.applied
        beacon = await self._surely(lambda: self._evaluation_beacon(job), tip)
        rows = decode_scores(data, tip.run_id, self._context.identity.hotkey, job.round)[0].rows
        works = judging.measured_works()
        await self._checking.look(Scored(tip, applied, beacon, works, {row.hotkey: row for row in rows}))

    async def _evaluation_beacon(self, job: Job) -> bytes:
        """What all validators' own beacons of a round are made of.

        Raises:
            ChainError: the chain does not say, or has not reached its block.
        """
        at = job.step.applied.sealed.number + job.step.before.spec.clock.evaluate
        return await self._context.chain.beacon(EVALUATE, job.round, at)

    async def _own_file(self, tip: Tip, round_: int, record: bytes) -> bytes | None:
        """What this validator has published of a record of a round."""
        name = paths.scores(tip.run_id, round_, record)
        try:
            data = await self._context.bucket.get(name, max_bytes=max_scores_bytes(tip.spec.data.slots))
            file, _ = decode_scores(data, tip.run_id, self._context.identity.hotkey, round_)
        except ObjectMissing:
            return None
        except WireError as error:
            log.error("the score file %s in the own bucket cannot be read: %s", name, error)
            return None
        return data if file.record == record else None

    async def _states(self, tip: Tip, publishing: Publishing) -> dict[str, PeerState]:
        """The standings after the record before: as committed, or as published by a life whose store is lost.

        Where nothing was said of it, those of the newest round before.
        """
        if not tip.round:
            return {}
        committed = await self._context.offload(lambda: self._store.find(tip.parent))
        if committed is None:
            data = await self._own_file(tip, tip.round - 1, tip.parent)
            if data is not None:
                committed = Committed(tip.round - 1, tip.parent, data, Stage.DONE)
        if committed is None:
            committed = await self._context.offload(lambda: self._store.newest(tip.round - 1))
        rows = () if committed is None else publishing.read(committed).rows
        return {row.hotkey: state_of(row) for row in rows}

    async def _measured(self, job: Job, states: Mapping[str, PeerState]) -> Judging:
        """Measure what can be measured before the leader has decided what these scores could steer."""
        tip, applied, context = job.step.before, job.step.applied, self._context
        late = self._late(tip)

        async def pressed() -> bool:
            return await recorded(context, tip, tip.round + tip.spec.gauntlet.lag - 1)

        beacon = await self._surely(lambda: self._beacon(job, late), tip)
        async with asyncio.TaskGroup() as tasks:
            errands = Errands(tasks, context.chain)
            found = await self._surely(
                lambda: look_through(context, tip, applied, states, beacon, errands, pressed, self._spool), tip
            )
            errands.cancel()
        before = job.before
        if before is None:
            try:
                before = await self._surely(lambda: updates_before(context, tip), tip, late)
            except GaveUp:
                before = ()  # nobody is compared with it then
        before = (*before, *late_updates(applied))
        case = Case(tip, applied, beacon, states, found.works, found.outcomes, found.declared, before)
        judging = Judging(case, self._text)
        await context.offload(judging.prepare)
        while await self._theta.at(tip.round, judging.go_on):
            if await self._surely(late, tip):
                log.warning("round %d is scored by what was measured in time", job.round)
                break
        log.info("round %d: %s", job.round, judging.cost())
        return judging

    async def _beacon(self, job: Job, late: Callable[[], Awaitable[bool]]) -> bytes | None:
        """What this validator draws its windows of the round by, once the chain has it; None where it is too late.

        Raises:
            ChainError: the chain does not say.
        """
        chain, at = self._context.chain, job.step.applied.sealed.number + job.step.before.spec.clock.evaluate
        head = await chain.head()
        while not await late():
            if head.number >= at:
                return own_beacon(await self._evaluation_beacon(job), self._context.identity.public)
            head = await chain.next_block(head.number)
        return None

    async def _file(self, job: Job, judging: Judging) -> bytes:
        """The signed score file of a round, of everybody who has a slot now.

        Raises:
            ChainError: the chain does not say who has one.
        """
        context, tip = self._context, job.step.before
        uids = {peer.hotkey: peer.uid for peer in (await context.chain.snapshot()).peers}
        rows = await context.offload(lambda: judging.judge(uids))
        file = ScoreFile(tip.run_id, context.identity.public, job.round, job.step.applied.digest, job.heldout, rows)
        return encode_scores(file, context.identity)
