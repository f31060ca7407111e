"""Object stores: one interface over folders, this process's memory, S3 services and web addresses."""

from __future__ import annotations

from protocol.storage.addresses import AllowList
from protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key
from protocol.storage.directory import DirectoryStore
from protocol.storage.locations import Buckets, DirectoryBuckets, MemoryBuckets, open_store
from protocol.storage.memory import MemoryStore
from protocol.storage.metered import Meter, MeteredBuckets, MeteredStore
from protocol.storage.network import NetworkBuckets
from protocol.storage.s3 import S3Store
from protocol.storage.s3_location import Credentials, S3Location, WebLocation, is_network_location, parse_location
from protocol.storage.web import WebStore

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
