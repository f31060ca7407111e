"""Which addresses a stranger's location may lead to: the public internet, and what the operator allowed by name.

A location is text that anybody may commit. Without this rule it could make every participant send requests to
its own router, to a cloud's metadata service, or to a database that trusts its network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.storage.s3_location import parse_host, parse_port

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "198.18.0.0/15",  # benchmarks
            "::/96",  # IPv4-compatible, obsolete: reaches an IPv4 address on some systems
            "64:ff9b:1::/48",  # translation inside one network
            "2001::/23",  # Teredo and other protocol assignments
            "2002::/16",  # 6to4: an IPv4 address inside
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing inside one network
            "fec0::/10",  # site-local, obsolete
        ),
    )
)
"""Not for the public, though `is_global` says otherwise in some versions of Python."""


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; one that contains an IPv4 address is as public as that."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _NOT_PUBLIC if network.version == address.version)
    )


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the operator lets locations lead to besides the public internet. Empty by default."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read a setting such as `127.0.0.1:9000,10.0.0.0/8,minio.lan`: hosts, with a port or for all, and networks.

        Raises:
            ConfigError: an entry is none of these.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: list[Network] = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            try:
                if "/" in entry:
                    networks.append(ipaddress.ip_network(entry))
                else:
                    hosts.add(_host_entry(entry))
            except (ValueError, StorageError) as error:
                raise ConfigError(f"allow: {entry!r} is not HOST, HOST:PORT or a network ({error})") from None
        return cls(frozenset(hosts), tuple(networks))

    def with_host(self, host: str, port: int) -> AllowList:
        """The same list and one host more."""
        return replace(self, hosts=self.hosts | {(host, port)})

    def names(self, host: str, port: int) -> bool:
        """Whether the operator allowed this very host, by its name, its address or its network."""
        if (host, port) in self.hosts or (host, None) in self.hosts:
            return True
        try:
            return self._in_networks(ipaddress.ip_address(host))
        except ValueError:
            return False

    def permits(self, address: Address, port: int) -> bool:
        """Whether a host's name may lead to this address."""
        return is_public(address) or self.names(str(address), port)

    def check(self, host: str, port: int, found: Iterable[str]) -> list[str]:
        """Return the addresses a host's name led to, if every one of them is permitted.

        Raises:
            StorageError: one is not (a host that mixes is up to something), or there are none.
        """
        addresses = [ipaddress.ip_address(text) for text in found]
        if not addresses:
            raise StorageError(f"the host {host} has no address")
        for address in addresses:
            if not self.permits(address, port):
                raise StorageError(
                    f"refused to connect to {host}: {address} is not a public address; if it is meant to be used, "
                    f"add {host}:{port} to the setting `allow`"
                )
        return [str(address) for address in addresses]

    def _in_networks(self, address: Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)


def _host_entry(entry: str) -> tuple[str, int | None]:
    host, bracket, rest = entry.rpartition("]")
    name, colon, port = rest.partition(":")
    return parse_host(host + bracket + name), parse_port(port) if colon else None
