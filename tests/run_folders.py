"""Runs to publish and join: the smallest spec, and a web server that serves a published folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tomli_w

from muster.protocol.spec import load_template
from muster.protocol.types import Origin
from muster.run.specs import Standing, new_spec
from muster.testnet.roster import Roster

ROSTER = Roster.of(0, 2, 1, {})


def make_spec(base: Path, seed: int = 0, netuid: int | None = None) -> Path:
    """A folder as `muster spec new` makes it: a model of a few thousand parameters and eight files of text.

    It is for that subnet, or for the local chain of its seed.
    """
    base.mkdir(parents=True, exist_ok=True)
    document = load_template("tiny").model_dump(mode="json")
    document["model"] |= {"hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "ffn": 8}
    (base / "small.toml").write_text(tomli_w.dumps(document))
    texts = []
    for i in range(8):
        texts.append(base / f"text-{i}.txt")
        texts[-1].write_bytes(bytes(range(32, 127)) * 100)
    leaders = tuple(member.hotkey for member in ROSTER.operators)
    miners = tuple(member.hotkey for member in ROSTER.miners)
    standing = None if netuid is None else Standing(Origin("bittensor", bytes(32), netuid, 100), 0, None)
    new_spec(str(base / "small.toml"), base / "spec", leaders[0], leaders, miners, texts, seed, 0, standing)
    return base / "spec"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The web address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
