"""When a miner's state goes to the disk: all of it in every round, or in every n-th and between them what was sent.

The state is a multiple of the model's size, and a large model's takes a disk minutes to write; a round's submission is
a thousandth of that. What must be durable before anything is sent is the submission with its key, so that no round's is
made twice; without the e and the moments after it a miner that was killed goes on from older ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from muster.node.miner.state import Entry, Made, MinerState, load_made, load_state, save_made, save_state, stored_error
from muster.protocol.errors import DiskFailed
from muster.protocol.spec.layout import Layout

SENT = "submission.safetensors"
"""Beside the state's file: the submission made since, while the state waits."""


class Memory:
    """The files of one miner: its state, and where that is not saved in every round its newest submission."""

    def __init__(self, path: Path, every: int = 1) -> None:
        """Keep the state at `path`, saved whole in the first of each `every` rounds that are worked on."""
        self._path = path
        self._sent = path.with_name(SENT)
        self._every = every
        self._since = 0
        self._after: Made | None = None

    def load(self, layout: Layout, take: Callable[[Iterable[Entry]], None]) -> tuple[MinerState, int]:
        """What was saved (e as of `stored_error`) or a blank state, and how many rounds e and moments know nothing of.

        `take` is given what the engine kept; see `load_state`.

        Raises:
            ConfigError: a file is of another release, or not a miner's of this model.
            DiskFailed: one cannot be read.
            MusterError: what `take` raises where the entries are not its own.
        """
        state = load_state(self._path, layout, take)
        self._since, self._after = 0, state.made
        if state.made is None:
            return state, 0
        sent = load_made(self._sent, state.made)
        if sent is None:
            return state, 0
        return MinerState(state.error, sent), max(0, sent.round - state.made.round)

    def save(self, layout: Layout, state: MinerState, moments: Callable[[], Iterable[Entry]]) -> MinerState:
        """Make the submission durable, and in the rounds whose turn it is all of the state.

        Returns the state to go on with: the one given, with its e where it lies in the file if all was saved.

        Raises:
            DiskFailed: the disk is full, or the folder cannot be written; what was saved before is whole.
        """
        if self._since % self._every and state.made is not None and self._after is not None:
            save_made(self._sent, state.made, self._after)
        else:
            save_state(self._path, layout, state, moments)
            self._after, self._since = state.made, 0
            self._forget()
            state = replace(state, error=stored_error(self._path, layout))
        self._since += 1
        return state

    def _forget(self) -> None:
        """Drop a submission older than the state; one that stays is told by what it names."""
        try:
            self._sent.unlink(missing_ok=True)
        except OSError as problem:
            raise DiskFailed(f"cannot remove {self._sent}: {problem.strerror}; mend its folder") from problem
