"""What every test of the tree runs under."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from forked import Commands
from hypothesis import settings
from s3_server import RadosGateway, ServerAbsent

# A deadline per example makes a law fail when the machine is busy; pytest's own timeout bounds each test.
settings.register_profile("muster", deadline=None)
settings.load_profile("muster")

# Six thousand tests and what they import stay: the collector has nothing to find among them, and takes a fifth of the
# time in which they are collected, and a twenty-fifth of that in which they run.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage, of what is made from here on."""
    gc.freeze()
    gc.enable()


# GPU programs run on the CPU. Triton looks when it is first imported, and transformers imports it too.
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def locks_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The locks of daemons that tests start lie apart from those of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def muster_command(locks_of_their_own: None) -> Iterator[Commands]:
    """Runs `muster`, one command after the other, in processes of their own; one server of them per test process."""
    with Commands() as commands:
        yield commands


@pytest.fixture(scope="session")
def s3_server() -> Iterator[RadosGateway]:
    """A real S3 server, one per test process."""
    try:
        server = RadosGateway()
    except ServerAbsent as absent:
        pytest.skip(str(absent))
    with server:
        yield server


@pytest.fixture(autouse=True)
def no_public_bucket_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """A public bucket of the account that all tests share would be found by every later check of that account."""
    if "s3_server" not in request.fixturenames:
        yield
        return
    server: RadosGateway = request.getfixturevalue("s3_server")
    before = server.buckets()
    yield
    assert [name for name in server.buckets() - before if server.is_public(name)] == []
