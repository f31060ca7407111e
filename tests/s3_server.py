"""A real S3 server for the tests: what a mock only imitates (signatures, policies, races) decides whether a run works.

One Ceph monitor, one in-memory OSD and the RADOS Gateway on free loopback ports, ready in about a second. All three
run in the foreground as children of this process and die with it, even when it is killed.
"""

from __future__ import annotations

import atexit
import fcntl
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
_PROGRAMS = (
    "radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool", "setpriv",
)  # fmt: skip
_START_S = 30.0
"""Seconds all of it may take to come up; about one on an idle machine."""
_ATTEMPTS = 3
"""A free port may be taken by another process before the server binds it."""
_STORE_BYTES = 4 << 30

_CONFIG = """
[global]
fsid = {fsid}
mon host = {address}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
run dir = {root}
admin socket = {root}/$name.$pid.asok
log file = {root}/$name.log
pid file = {root}/$name.pid
crash dir = {root}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = false
# Without these a fresh monitor thinks for seconds before each change.
paxos propose interval = 0.02
paxos min wait = 0.01
mon tick interval = 1
osd boot wait = 0
osd crush chooseleaf type = 0
ms bind ipv6 = false
[mon]
mon data = {root}/mon
mon cluster log file = {root}/cluster.log
mon data avail warn = 1
mon data avail crit = 1
[osd]
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = {store}
osd max object name len = 2048
[client]
keyring = {root}/keyring
[client.rgw]
# Quick garbage collection: else overwritten objects fill the store and puts hang.
rgw gc obj min wait = 1
rgw gc processor period = 3
rgw gc processor max time = 3
rgw lc debug interval = 10
rgw enable usage log = false
debug rgw = 0
"""


class ServerAbsent(Exception):
    """The server's packages are not installed here and must not or cannot be installed by us."""


class RadosGateway:
    """A running server; a context manager. Start it from the main thread: the children die with their thread.

    `endpoint` is its URL, `address` its HOST:PORT, `access` and `secret` the keys of a user that may
    administer users and buckets through the gateway's own API.
    """

    def __init__(self) -> None:
        """Install what is missing where that is allowed, start, and wait until it answers.

        Raises:
            ServerAbsent: it is not installed and this is neither CI nor root on Debian.
        """
        install()
        for attempt in range(_ATTEMPTS):
            try:
                self._start()
            except subprocess.SubprocessError:
                self.stop()
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def user(self, uid: str) -> tuple[str, str]:
        """Make the user `uid` (or find it) and return its access key and secret."""
        known = self._users.get(uid)
        if known is None:
            known = (f"AK{secrets.token_hex(9).upper()}", secrets.token_hex(20))
            self.admin(
                "user", "create", f"--uid={uid}", f"--display-name={uid}",
                f"--access-key={known[0]}", f"--secret={known[1]}", "--max-buckets=10000",
            )  # fmt: skip
            self._users[uid] = known
        return known

    def client(self, uid: str = "admin") -> Any:
        """A boto3 client of the user `uid`, for what a store cannot do: make buckets, set policies."""
        import boto3
        from botocore.config import Config

        access, secret = self.user(uid)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
        )

    def buckets(self) -> set[str]:
        """The names of the administrator's buckets."""
        return {bucket["Name"] for bucket in self.client().list_buckets()["Buckets"]}

    def is_public(self, bucket: str) -> bool:
        """Whether a bucket's policy allows something to everybody (the gateway's own answer counts named users too)."""
        from botocore.exceptions import ClientError

        try:
            policy = json.loads(self.client().get_bucket_policy(Bucket=bucket)["Policy"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucketPolicy":
                return False
            raise
        return any(one["Effect"] == "Allow" and one["Principal"] in ("*", {"AWS": "*"}) for one in policy["Statement"])

    def admin(self, *arguments: str) -> Any:
        """What `radosgw-admin` prints as JSON."""
        out = self._do("radosgw-admin", "-n", "client.admin", *arguments)
        return json.loads(out) if out.strip() else None

    def stop(self) -> None:
        """Kill the servers and remove their folder; safe to call twice."""
        atexit.unregister(self.stop)
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._exit = ExitStack()
        self._users: dict[str, tuple[str, str]] = {}
        root = self._root = Path(tempfile.mkdtemp(prefix="rgw-"))
        self._exit.callback(shutil.rmtree, root, ignore_errors=True)
        atexit.register(self.stop)
        port, v1, v2 = _free_ports(3)
        fsid = str(uuid.uuid4())
        address = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
        for folder in ("mon", "osd"):
            (root / folder).mkdir()
        config = _CONFIG.format(fsid=fsid, address=address, root=root, store=_STORE_BYTES)
        (root / "ceph.conf").write_text(config, encoding="ascii")

        keyring = str(root / "keyring")
        self._do("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._do("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        monmap = str(root / "monmap")
        self._do("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._spawn("ceph-mon", "-f", "-i", "a")

        osd = str(uuid.uuid4())
        self._do("ceph", "osd", "new", osd)
        caps = ["mon", "allow profile osd", "osd", "allow *"]
        self._do("ceph", "auth", "get-or-create", "osd.0", *caps, "-o", str(root / "osd" / "keyring"))
        self._do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._spawn("ceph-osd", "-f", "-i", "0")

        key = self._do("ceph", "auth", "get-or-create", "client.rgw", "mon", "allow rw", "osd", "allow rwx")
        with Path(keyring).open("a", encoding="ascii") as file:
            file.write(key)
        frontends = f"beast endpoint=127.0.0.1:{port} tcp_nodelay=1"
        gateway = self._spawn("radosgw", "-f", "-n", "client.rgw", "--rgw-frontends", frontends)
        self.address = f"127.0.0.1:{port}"
        self.endpoint = f"http://{self.address}"
        _wait_for(port, gateway, root)
        self.access, self.secret = self.user("admin")
        self.admin("caps", "add", "--uid=admin", "--caps=users=*;buckets=*;metadata=*")

    def _do(self, program: str, *arguments: str) -> str:
        """Run a tool to its end and return what it prints."""
        command = [program, "-c", str(self._root / "ceph.conf"), *arguments]
        if program in {"ceph-authtool", "monmaptool"}:
            command = [program, *arguments]
        done = subprocess.run(command, capture_output=True, timeout=_START_S, check=False, env=self._environment())
        if done.returncode:
            raise subprocess.SubprocessError(f"{program} failed: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon that the kernel kills when this process ends, however it ends."""
        command = ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self._root / "ceph.conf"), *arguments]
        with (self._root / f"{program}.out").open("wb") as out:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environment())
        self._exit.callback(_kill, child)
        return child

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._root / "ceph.conf")}


def install() -> None:
    """Make sure the server's programs are here: as root, or in CI, install Debian's packages.

    Raises:
        ServerAbsent: they are not, and could not be installed.
    """
    if all(map(shutil.which, _PROGRAMS)):
        return
    if shutil.which("apt-get") is None or not (os.environ.get("CI") or os.geteuid() == 0):
        raise ServerAbsent(f"no S3 server to test against: apt-get install {' '.join(PACKAGES)}")
    with (Path(tempfile.gettempdir()) / "muster-tests-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one installs
        if all(map(shutil.which, _PROGRAMS)):
            return
        as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]
        try:
            for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
                subprocess.run([*apt, *arguments], check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerAbsent(f"no S3 server to test against, and apt-get could not install it: {error}") from error


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(port: int, gateway: subprocess.Popen[bytes], root: Path) -> None:
    """Until the gateway answers a request; a process that starts is the one thing here that must be polled."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end and gateway.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            return
        time.sleep(0.02)
    said = (root / "radosgw.out").read_text(encoding="utf-8", errors="replace")
    raise subprocess.SubprocessError(f"the gateway did not start: {said[-2000:]}")


def _kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()


if __name__ == "__main__":
    # Before the tests and not in one: installing takes longer than a test may.
    try:
        install()
    except ServerAbsent as absent:
        print(f"{absent}; tests of S3 will be skipped")  # noqa: T201
