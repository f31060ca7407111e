"""Asks the daemon of this container whether it is well, for the container engine; status 0 means yes.

It needs nothing but Python's own library and asks where `MUSTER_SERVICE` says the daemon answers. Where that is not
set there is no daemon to ask (a testnet, an audit), and the process itself is what the engine watches.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

ANSWER_SECONDS = 5.0
"""How long the daemon may take to answer."""

EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104
"""Where to ask a daemon that listens on all interfaces."""


def main(service: str | None) -> int:
    """The exit status; says on stdout what is wrong."""
    if not service or service == "off":
        return 0
    host, _, port = service.rpartition(":")
    url = f"http://{EVERY_INTERFACE.get(host, host)}:{port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):
            return 0
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode(errors="replace"))
    except OSError as error:
        sys.stdout.write(f"nobody answers at {url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(os.environ.get("MUSTER_SERVICE")))
