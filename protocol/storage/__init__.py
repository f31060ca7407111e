"""Object stores: one interface, and the backends that need no set-up."""

from __future__ import annotations

from protocol.storage.base import DEFAULT_DEADLINE, ObjectInfo, Store, check_key
from protocol.storage.directory import DirectoryStore
from protocol.storage.locations import Buckets, DirectoryBuckets, MemoryBuckets, open_store
from protocol.storage.memory import MemoryStore
from protocol.storage.metered import Meter, MeteredBuckets, MeteredStore

__all__ = [
    "DEFAULT_DEADLINE",
    "Buckets",
    "DirectoryBuckets",
    "DirectoryStore",
    "MemoryBuckets",
    "MemoryStore",
    "Meter",
    "MeteredBuckets",
    "MeteredStore",
    "ObjectInfo",
    "Store",
    "check_key",
    "open_store",
]
