"""What a participant cannot write now: one sentence for each thing, told once, and taken back when it works again.

A disk that is full, read-only or gone ends no daemon: whoever writes tries again. Here is where they say so, so that
log, journal, `/healthz` and the view all tell the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from muster.node.telemetry import events
from muster.node.telemetry.event import Event
from muster.protocol.errors import DiskFailed

log = logging.getLogger(__name__)


class Ailments:
    """The ailments of one participant, by what is written; may be used from any thread."""

    def __init__(self, note: Callable[[Event], None] = lambda _event: None) -> None:
        """`note` writes to the journal."""
        self._note = note
        self._problems: dict[str, str] = {}
        self._lock = Lock()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Within, `what` is written: if the disk fails it ails, else it does not any more.

        Raises:
            DiskFailed: as it came, or in place of the operating system's own error.
        """
        try:
            yield
        except OSError as error:
            sentence = f"{what} cannot be kept on disk: {error.strerror or error}; free space or mend the disk"
            self.fail(what, sentence)
            raise DiskFailed(sentence) from error
        except DiskFailed as error:
            self.fail(what, str(error))
            raise
        self.recover(what)

    def fail(self, what: str, problem: str) -> None:
        """It cannot be written, for this reason, a sentence."""
        with self._lock:
            before = self._problems.get(what)
            self._problems[what] = problem
        if before != problem:
            log.error("%s (it is tried again)", problem)
            self._note(events.Ailing(what=what, problem=problem))

    def recover(self, what: str) -> None:
        """It has been written."""
        with self._lock:
            ailed = self._problems.pop(what, None) is not None
        if ailed:
            log.info("%s: well again", what)
            self._note(events.Recovered(what=what))
