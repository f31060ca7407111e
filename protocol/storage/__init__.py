"""Object stores: one interface over folders, this process's memory, S3 services and web addresses."""

from __future__ import annotations

from muster.protocol.storage.addresses import AllowList
from muster.protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key
from muster.protocol.storage.directory import DirectoryStore
from muster.protocol.storage.locations import Buckets, DirectoryBuckets, MemoryBuckets, open_store
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.storage.metered import Meter, MeteredBuckets, MeteredStore
from muster.protocol.storage.network import NetworkBuckets
from muster.protocol.storage.s3 import S3Store
from muster.protocol.storage.s3_location import (
    Credentials,
    S3Location,
    WebLocation,
    is_network_location,
    parse_location,
)
from muster.protocol.storage.web import WebStore

__all__ = [
    "DEFAULT_DEADLINE",
    "AllowList",
    "Buckets",
    "Credentials",
    "DirectoryBuckets",
    "DirectoryStore",
    "MemoryBuckets",
    "MemoryStore",
    "Meter",
    "MeteredBuckets",
    "MeteredStore",
    "NetworkBuckets",
    "ObjectInfo",
    "S3Location",
    "S3Store",
    "Store",
    "WebLocation",
    "WebStore",
    "check_key",
    "is_network_location",
    "open_store",
    "parse_location",
]
