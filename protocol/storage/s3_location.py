"""What a committed location on the network says: one grammar, so that every participant opens the same bucket.

    s3://[READ_KEY:READ_SECRET@]HOST[:PORT]/BUCKET[/PREFIX][?region=R][&style=path|virtual][&tls=on|off]
    https://HOST[:PORT][/PREFIX]          read only, a plain web address (http:// where it is allowed by name)

A location is public text. The pair in it reads one bucket and can do nothing else; without it the bucket is
public. Defaults: region us-east-1, style path, TLS on except to a loopback host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from muster.protocol.errors import StorageError
from muster.protocol.storage.base import check_key
from muster.protocol.types import MAX_LOCATION

DEFAULT_REGION = "us-east-1"
HTTP_PORT, HTTPS_PORT = 80, 443

# The last label of a name begins with a letter: "127.1" and "0x7f.1" are addresses to some resolvers.
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MAX_NAME = 253
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_PORT = 65535
_SECRET = re.compile(r"[!-~]{1,128}")
_QUOTED = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+")
_OPTIONS = {"region": _REGION, "style": re.compile("path|virtual"), "tls": re.compile("on|off")}


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret; only the access key shows in a repr.

    Raises:
        StorageError: either is empty, over 128 characters, or holds white space or control characters.
    """

    access: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not (_SECRET.fullmatch(self.access) and _SECRET.fullmatch(self.secret)):
            raise StorageError("an S3 key and its secret are 1 to 128 printable ASCII characters without spaces")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, or the part of one below `prefix`; `str` gives its one canonical text."""

    host: str
    port: int
    bucket: str
    prefix: str
    region: str
    virtual: bool
    tls: bool
    read: Credentials | None = None

    @property
    def connect_host(self) -> str:
        """The host that is connected to: in the virtual style the bucket is part of its name."""
        return f"{self.bucket}.{self.host}" if self.virtual else self.host

    @property
    def endpoint(self) -> str:
        """The URL that object names are appended to (after the bucket, in the path style)."""
        return f"{'https' if self.tls else 'http'}://{_authority(self.connect_host, self.port, self.tls)}"

    @property
    def shown(self) -> str:
        """Where it is without what reads it, for messages."""
        return f"s3://{_authority(self.host, self.port, self.tls)}/{self._path}"

    @property
    def _path(self) -> str:
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket

    def __str__(self) -> str:
        pair = f"{quote(self.read.access, safe='')}:{quote(self.read.secret, safe='')}@" if self.read else ""
        options = [
            *([f"region={self.region}"] if self.region != DEFAULT_REGION else []),
            *(["style=virtual"] if self.virtual else []),
            *([f"tls={'on' if self.tls else 'off'}"] if self.tls == is_loopback(self.host) else []),
        ]
        query = "?" + "&".join(options) if options else ""
        return f"s3://{pair}{_authority(self.host, self.port, self.tls)}/{self._path}{query}"


@dataclass(frozen=True, slots=True)
class WebLocation:
    """Objects behind a web address, to be read only; `str` gives its one canonical text."""

    host: str
    port: int
    prefix: str
    tls: bool

    @property
    def connect_host(self) -> str:
        """The host that is connected to."""
        return self.host

    @property
    def endpoint(self) -> str:
        """The URL that object names are appended to."""
        return str(self)

    @property
    def shown(self) -> str:
        """The address itself; it holds nothing to hide."""
        return str(self)

    def __str__(self) -> str:
        base = f"{'https' if self.tls else 'http'}://{_authority(self.host, self.port, self.tls)}"
        return f"{base}/{self.prefix}" if self.prefix else base


def is_network_location(text: str) -> bool:
    """Whether `text` means to be a location of this module, valid or not."""
    return text.startswith(("s3://", "https://", "http://"))


def parse_location(text: str) -> S3Location | WebLocation:
    """Read a location; `str` of the result is its canonical text.

    Raises:
        StorageError: not of the grammar above, or over 512 bytes; the text is not repeated, it may hold a secret.
    """
    if not text.isascii() or len(text) > MAX_LOCATION:
        raise StorageError(f"a location on the network is at most {MAX_LOCATION} ASCII characters")
    scheme, found, rest = text.partition("://")
    match scheme if found else "":
        case "s3":
            return _parse_s3(rest)
        case "https" | "http":
            authority, _, prefix = rest.partition("/")
            tls = scheme == "https"
            host, port = _parse_authority(authority, HTTPS_PORT if tls else HTTP_PORT)
            return WebLocation(host, port, _parse_prefix(prefix), tls)
        case _:
            raise StorageError("a location on the network begins with s3://, https:// or http://")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its spelling: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_host(text: str) -> str:
    """A host's canonical spelling: a lower-case name, an IPv4 address, an IPv6 address without brackets.

    Raises:
        StorageError: none of these.
    """
    if text.startswith("[") and text.endswith("]") and "%" not in text:
        try:
            return ipaddress.IPv6Address(text[1:-1]).compressed
        except ValueError:
            raise StorageError("the host in brackets is not an IPv6 address") from None
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        name = text.lower()
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise StorageError("the host is neither a domain name nor an IP address ([…] around IPv6)")
    return name


def parse_port(text: str) -> int:
    """A port number from 1 to 65535.

    Raises:
        StorageError: anything else.
    """
    if not _PORT.fullmatch(text) or int(text) > _MAX_PORT:
        raise StorageError("the port is not a number from 1 to 65535")
    return int(text)


def _parse_s3(rest: str) -> S3Location:
    rest, query_found, query = rest.partition("?")
    options = _parse_options(query) if query_found else {}
    authority, _, path = rest.partition("/")
    pair, at, address = authority.rpartition("@")
    read = _parse_pair(pair) if at else None
    # The default port depends on TLS, whose default depends on the host.
    host, _ = _parse_authority(address, HTTPS_PORT)
    tls = options["tls"] == "on" if "tls" in options else not is_loopback(host)
    host, port = _parse_authority(address, HTTPS_PORT if tls else HTTP_PORT)
    bucket, _, prefix = path.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise StorageError("the bucket's name is not 3 to 63 lower-case letters, digits, dots and hyphens")
    virtual = options.get("style") == "virtual"
    if virtual and not _NAME.fullmatch(f"{bucket}.{host}"):
        raise StorageError("style=virtual needs a host with a name, of which the bucket can be a part")
    location = S3Location(
        host, port, bucket, _parse_prefix(prefix), options.get("region", DEFAULT_REGION), virtual, tls, read
    )
    if len(str(location)) > MAX_LOCATION:
        raise StorageError(f"the location's canonical text is over {MAX_LOCATION} characters; use a shorter prefix")
    return location


def _parse_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in options or name not in _OPTIONS or not _OPTIONS[name].fullmatch(value):
            raise StorageError("after its ? a location has region=R, style=path|virtual and tls=on|off, each once")
        options[name] = value
    return options


def _parse_pair(text: str) -> Credentials:
    access, colon, secret = text.partition(":")
    if not (colon and _QUOTED.fullmatch(access) and _QUOTED.fullmatch(secret)):
        raise StorageError("what stands before @ is not READ_KEY:READ_SECRET; write / + = : @ in it as %2F %2B …")
    # What is not UTF-8 becomes a character that `Credentials` refuses.
    return Credentials(unquote(access), unquote(secret))


def _parse_authority(text: str, default_port: int) -> tuple[str, int]:
    host, bracket, rest = text.rpartition("]")
    name, colon, port = rest.partition(":")
    return parse_host(host + bracket + name), parse_port(port) if colon else default_port


def _parse_prefix(text: str) -> str:
    prefix = text.removesuffix("/")
    return check_key(prefix) if prefix else ""


def _authority(host: str, port: int, tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port == (HTTPS_PORT if tls else HTTP_PORT) else f"{shown}:{port}"
