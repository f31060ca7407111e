"""A network of this machine's own that tests cut and mend: each participant in a network namespace, made by `ip`.

What is cut vanishes without a word, as on the internet: no reset, no refusal, no carrier that is lost. Connections that
were open stay open and carry nothing, so whatever waits for them has its own deadlines or hangs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from s3_proxies import CuttingProxy

NETWORK = "10.77.0.0/24"
PORT = 9000
"""Where every namespace's door listens."""

_CLONE_NEWNET = 0x40000000
_SIDES = 4
"""Parts that the network may be cut into."""


class NoNamespaces(Exception):
    """This machine, or who runs the tests, may not make network namespaces; the text says why."""


class Network:
    """Namespaces that all reach each other, until they are cut; made by `network`."""

    def __init__(self, names: Sequence[str], prefix: str) -> None:
        self._hub = f"{prefix}-hub"
        self._names = {name: f"{prefix}-{i}" for i, name in enumerate(names)}
        self._hosts = {name: f"10.77.0.{i + 1}" for i, name in enumerate(names)}

    @property
    def hosts(self) -> Mapping[str, str]:
        """Everybody's address."""
        return self._hosts

    def before(self, name: str) -> tuple[str, ...]:
        """What a command line begins with to be run there."""
        return ("ip", "netns", "exec", self._names[name])

    def cut(self, *sides: Iterable[str]) -> None:
        """Nothing passes between these groups from now on; who is in none is in the first."""
        of = {name: side for side, group in enumerate(sides) for name in group}
        for i, name in enumerate(self._names):
            _ip("-n", self._hub, "link", "set", f"port{i}", "master", f"side{of.get(name, 0)}")

    def heal(self) -> None:
        """Everybody reaches everybody."""
        self.cut(self._names)

    def listen(self, name: str) -> socket.socket:
        """A listening socket in that namespace: it stays there, whoever accepts from it."""
        made: list[socket.socket] = []

        def enter() -> None:  # the namespace is this thread's own, which ends
            with Path(f"/run/netns/{self._names[name]}").open("rb") as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET):
                    return
            made.append(socket.create_server((self._hosts[name], PORT)))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if not made:
            raise NoNamespaces(f"a thread may not enter the network namespace of {name}")
        return made[0]

    def make(self) -> None:
        """Bridges in a hub, and a cable from each namespace to the first of them."""
        _ip("netns", "add", self._hub)
        for side in range(_SIDES):
            _ip("-n", self._hub, "link", "add", f"side{side}", "type", "bridge")
            _ip("-n", self._hub, "link", "set", f"side{side}", "up")
        for i, (name, space) in enumerate(self._names.items()):
            _ip("netns", "add", space)
            peer = ("peer", "name", f"port{i}", "netns", self._hub)
            _ip("-n", space, "link", "add", "eth0", "address", _hardware(i), "type", "veth", *peer)
            _ip("-n", space, "address", "add", f"{self._hosts[name]}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", space, "link", "set", link, "up")
            _ip("-n", self._hub, "link", "set", f"port{i}", "master", "side0", "up")
        # Known for good: else who is cut off is told after some seconds that there is no such host.
        for i, space in enumerate(self._names.values()):
            for j, host in enumerate(self._hosts.values()):
                if i != j:
                    _ip(
                        "-n", space, "neighbour", "add", host, "lladdr", _hardware(j), "dev", "eth0", "nud", "permanent"
                    )

    def remove(self) -> None:
        """With all that is in it; what was not made is no error."""
        for space in (*self._names.values(), self._hub):
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """A network of these.

    Raises:
        NoNamespaces: it cannot be made here.
    """
    made = Network(names, f"muster-{os.getpid()}")
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _hardware(number: int) -> str:
    return f"02:00:00:00:00:{number + 1:02x}"


def _ip(*arguments: str) -> None:
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no program `ip`: apt-get install iproute2")
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoNamespaces(f"`ip {' '.join(arguments)}`: {done.stderr.strip()} (it needs root, and a kernel with veth)")


@contextmanager
def doors(listeners: Iterable[socket.socket], port: int) -> Iterator[None]:
    """Pass on what comes in at these to a loopback port of this process's own namespace; in a thread of its own."""
    loop, ending = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for listener in listeners:
                await stack.enter_async_context(CuttingProxy(port).running(listener))
            await ending.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="doors")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()
