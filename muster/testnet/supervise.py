"""A run of many processes must end as one: no crash unnoticed, no child left behind, one Ctrl-C for all.

    async with Supervisor(on_event) as supervisor:
        supervisor.start(ChildSpec(...))
        await supervisor.wait()

Leaving the block, however it is left, stops every child: SIGTERM, a grace period, SIGKILL, reaped. Against a
supervisor that is itself killed with SIGKILL only the kernel helps, so each child calls `die_with_parent`
first thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

from muster.history.status import ProcessRow, printable
from muster.protocol.errors import ConfigError, DataError, IdentityError, RunFailed, UsageError
from muster.testnet.parentage import SUPERVISOR_VARIABLE
from muster.testnet.spawning import Process, Spawn, execute

PERSON_MUST_ACT = frozenset(error.exit_status for error in (UsageError, ConfigError, DataError, IdentityError))
"""Exit statuses that a restart cannot cure."""

DEFAULT_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL: an inner step and a store request end well within."""

TAIL_BYTES = 8192
TAIL_LINES = 20
LINE_CHARACTERS = 400
"""How much of a failed child's log a person is shown."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep. `env` is added to the supervisor's environment, stdout and stderr to `log_path`.

    A crash of a child with `restart` false is reported and left alone.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    restart: bool


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """At most `max_restarts` within `window` seconds, each twice as late as the one before."""

    first_delay: float = 0.5
    max_delay: float = 8.0
    max_restarts: int = 5
    window: float = 60.0

    def __post_init__(self) -> None:
        if sum(self.backoff(crash + 1) for crash in range(self.max_restarts)) >= self.window:
            raise ValueError("restart delays that add up to the window or more would never give up")

    def backoff(self, crash: int) -> float:
        """Seconds to wait after the `crash`-th crash (from 1) within the window."""
        # The exponent is capped because 2.0 ** 1024 overflows; 2 ** 60 is beyond any cap.
        return min(self.max_delay, self.first_delay * 2.0 ** min(crash - 1, 60))

    def decide(self, crashes: Sequence[float], now: float) -> float | None:
        """Seconds to wait before the restart, or None to give up.

        `crashes` holds the times of all crashes so far, the newest included, on the same clock as `now`.
        """
        recent = sum(1 for crash in crashes if crash > now - self.window)
        return self.backoff(recent) if recent <= self.max_restarts else None


EventKind = Literal["started", "finished", "crashed", "stopped"]


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """Something happened to a child; `text` says it in a sentence.

    `status` is the exit status, negative for a signal, None for "started".
    """

    name: str
    kind: EventKind
    pid: int
    status: int | None
    text: str


def describe_status(status: int) -> str:
    """An exit status in words, as `Process.returncode` has it: −9 is "killed by SIGKILL"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-status}"


def last_lines(path: Path, start: int = 0, count: int = TAIL_LINES) -> list[str]:
    """The last non-empty lines written to a log from byte `start` on, at most `TAIL_BYTES`; [] if unreadable.

    Unprintable characters become "?": a log may quote a stranger, and a terminal obeys escape sequences.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip()[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()]
    return [printable(line.expandtabs()) for line in lines[-count:]]


class _Interrupted(Exception):
    """Ends the task group when a signal asks for it."""


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: Process | None = None
    log_start: int = 0
    crashes: list[float] = field(default_factory=list)
    restarts: int = 0

    def row(self) -> ProcessRow:
        process = self.process
        alive = process is not None and process.returncode is None
        return ProcessRow(self.spec.name, process.pid if process else None, alive, self.restarts)


class Supervisor:
    """Keeps children running; see the module's docstring for use.

    A child that ends with status 0 has finished. With a status of `PERSON_MUST_ACT`, or after more crashes
    than `policy` allows, the block is left with RunFailed. SIGINT, SIGTERM or SIGHUP leaves it with SystemExit 130,
    143 or 129; a second one, or one while children are being stopped, kills them at once.
    """

    def __init__(
        self,
        on_event: Callable[[ChildEvent], None],
        *,
        policy: RestartPolicy | None = None,
        grace: float = DEFAULT_GRACE,
        act_statuses: frozenset[int] = PERSON_MUST_ACT,
        signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        clock: Callable[[], float] = time.monotonic,
        spawn: Spawn = execute,
    ) -> None:
        """`on_event` is called on the event loop and must not block; `signals` need the main thread."""
        self._on_event = on_event
        self._policy = policy or RestartPolicy()
        self._grace = grace
        self._act_statuses = act_statuses
        self._signals = signals
        self._heard: tuple[signal.Signals, ...] = ()
        self._clock = clock
        self._begin = spawn
        self._children: dict[str, _Child] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._group = asyncio.TaskGroup()
        self._interrupt = asyncio.Event()
        self._signal: signal.Signals | None = None
        self._stopping = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        loop = asyncio.get_running_loop()
        # Under nohup SIGHUP is meant to do nothing.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._heard = tuple(number for number in self._signals if number is not signal.SIGHUP or not ignored)
        for number in self._heard:
            loop.add_signal_handler(number, self._on_signal, number)
        self._watch = self._group.create_task(self._watch_signals(), name="signals")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every child.

        Raises:
            RunFailed: a child failed for good.
            SystemExit: a signal ended the run; the status is 128 + its number.
        """
        self._stopping = True
        for task in (self._watch, *self._tasks):
            if not task.cancelling():  # a second cancellation would cut the grace period short
                task.cancel()
        failures: Sequence[BaseException] = ()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            failures = group.exceptions
        finally:
            for number in self._heard:
                asyncio.get_running_loop().remove_signal_handler(number)
        if self._signal is not None:
            raise SystemExit(128 + self._signal) from None
        for failure in failures:
            if failure is not error:
                raise failure from None

    def start(self, spec: ChildSpec) -> None:
        """Start a child and keep it until it finishes; its name must be new.

        Raises:
            ValueError: a child of that name exists.
        """
        if spec.name in self._children:
            raise ValueError(f"there is a child named {spec.name!r} already")
        child = self._children[spec.name] = _Child(spec)
        self._tasks.append(self._group.create_task(self._keep(child), name=spec.name))

    async def wait(self) -> None:
        """Wait until every child has finished, or crashed and is not to be restarted."""
        while pending := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(pending)

    def processes(self) -> tuple[ProcessRow, ...]:
        """All children in the order they were started."""
        return tuple(child.row() for child in self._children.values())

    async def _watch_signals(self) -> None:
        await self._interrupt.wait()
        raise _Interrupted

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping:
            for child in self._children.values():
                if child.row().alive:
                    _signal_group(child, signal.SIGKILL)
        self._stopping = True
        self._signal = self._signal or number
        self._interrupt.set()

    async def _keep(self, child: _Child) -> None:
        """Run one child until it need not run any more."""
        while True:
            # Shielded: asyncio would kill, not stop, a process whose creation is cancelled.
            spawning = asyncio.create_task(self._spawn(child))
            try:
                process = await asyncio.shield(spawning)
                status = await process.wait()
            except asyncio.CancelledError:
                await self._stop(child, await spawning)
                raise
            _signal_group(child, signal.SIGKILL)  # what it started must not outlive it
            delay = await self._judge(child, process.pid, status)
            if delay is None:
                return
            await asyncio.sleep(delay)
            child.restarts += 1

    async def _spawn(self, child: _Child) -> Process:
        spec = child.spec
        env = {**os.environ, **spec.env, SUPERVISOR_VARIABLE: str(os.getpid())}
        try:
            log, child.log_start = await asyncio.to_thread(_open_log, spec.log_path)
            with log:
                child.process = await self._begin(spec.argv, env, log)
        except OSError as error:
            raise RunFailed(f"cannot start {spec.name}: {error}") from error
        self._tell(child, "started", child.process.pid, None, f"{spec.name} started")
        return child.process

    async def _judge(self, child: _Child, pid: int, status: int) -> float | None:
        """Report how a child ended; seconds until its restart, None where there is none to be."""
        spec, ended = child.spec, describe_status(status)
        if status == 0:
            self._tell(child, "finished", pid, status, f"{spec.name} finished")
            return None
        if status in self._act_statuses:
            tail = await asyncio.to_thread(last_lines, spec.log_path, child.log_start, 1)
            self._tell(child, "crashed", pid, status, f"{spec.name} cannot go on ({ended})")
            raise RunFailed(f"{spec.name} cannot go on ({ended}): {' '.join(tail) or f'see {spec.log_path}'}")
        if not spec.restart:
            self._tell(child, "crashed", pid, status, f"{spec.name} crashed ({ended}) and stays down")
            return None
        now = self._clock()
        child.crashes.append(now)
        delay = self._policy.decide(child.crashes, now)
        if delay is not None:
            text = f"{spec.name} crashed ({ended}), restart {child.restarts + 1} in {delay:g} s"
            self._tell(child, "crashed", pid, status, text)
            return delay
        tail = await asyncio.to_thread(last_lines, spec.log_path, child.log_start)
        self._tell(child, "crashed", pid, status, f"{spec.name} crashed ({ended}) once too often")
        raise RunFailed(
            f"{spec.name} kept crashing ({ended}; {self._policy.max_restarts} restarts within "
            f"{self._policy.window:g} s did not help). The end of {spec.log_path}:\n" + "\n".join(tail)
        )

    async def _stop(self, child: _Child, process: Process) -> None:
        """End one: SIGTERM, the grace period, SIGKILL for what is left of its group; then it is reaped."""
        late = ""
        _signal_group(child, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._grace)
        except TimeoutError:
            late = f", not within {self._grace:g} s of being asked"
        finally:
            _signal_group(child, signal.SIGKILL)
            status = await process.wait()
        text = f"{child.spec.name} stopped ({describe_status(status)}{late})"
        self._tell(child, "stopped", process.pid, status, text)

    def _tell(self, child: _Child, kind: EventKind, pid: int, status: int | None, text: str) -> None:
        self._on_event(ChildEvent(child.spec.name, kind, pid, status, text))


def _open_log(path: Path) -> tuple[BinaryIO, int]:
    """Open a log for appending, and where its end is now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    return log, log.tell()


def _signal_group(child: _Child, number: signal.Signals) -> None:
    """Signal a child's whole process group, which its session leader's pid names; gone is fine."""
    if child.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)
