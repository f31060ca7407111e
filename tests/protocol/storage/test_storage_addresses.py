"""Where a stranger's location may lead, and the allow-list that widens it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.storage import AllowList
from muster.protocol.storage.addresses import is_public

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("text", PRIVATE)
def test_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(StorageError, match="allow"):
        AllowList().check("h.example", 443, ["8.8.8.8", text])


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert AllowList().check("h.example", 443, [text]) == [str(ipaddress.ip_address(text))]


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_public_in_ipv6_clothes(address: ipaddress.IPv4Address) -> None:
    for clothes in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(ipaddress.ip_address(clothes)) == is_public(address)


def test_a_host_without_addresses_is_refused() -> None:
    with pytest.raises(StorageError, match="no address"):
        AllowList().check("h.example", 443, [])


def test_the_allow_list_names_hosts_ports_and_networks() -> None:
    allow = AllowList.parse(" 127.0.0.1:9000, 10.0.0.0/8,MinIO.lan,[::1]:80,fd00::/8 ,")
    assert allow.names("127.0.0.1", 9000)
    assert not allow.names("127.0.0.1", 9001)
    assert allow.names("10.9.8.7", 1)
    assert allow.names("minio.lan", 443)
    assert allow.names("::1", 80)
    assert not allow.names("::1", 81)
    assert allow.names("fd12::1", 443)
    assert not allow.names("other.lan", 443)
    assert allow.check("h.example", 443, ["10.0.0.1", "8.8.8.8"]) == ["10.0.0.1", "8.8.8.8"]
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        allow.check("h.example", 443, ["127.0.0.1"])
    assert allow.with_host("own.lan", 9000).names("own.lan", 9000)
    assert AllowList.parse("") == AllowList()


@pytest.mark.parametrize("text", ["10.0.0.1/8", "host:port", "a b", "http://x", "1.2.3.4:0", "::1", "10.0.0.0/33"])
def test_what_is_no_allow_list(text: str) -> None:
    with pytest.raises(ConfigError, match="allow"):
        AllowList.parse(text)
