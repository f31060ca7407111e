"""Object stores: one interface over folders, this process's memory, S3 services and web addresses.

This package is the interface and what locations mean. The stores themselves are in its modules (`directory`, `memory`,
`s3`, `web`, and `locations` and `network` for the buckets of a run): a run's are opened in `muster.run.backends` alone.
"""

from __future__ import annotations

from muster.protocol.storage.addresses import AllowList
from muster.protocol.storage.base import DEFAULT_DEADLINE, Buckets, ObjectInfo, Store, check_key
from muster.protocol.storage.forwarding import ForwardingBuckets, ForwardingStore
from muster.protocol.storage.metered import Meter, MeteredBuckets, MeteredStore
from muster.protocol.storage.s3_location import (
    Credentials,
    S3Location,
    WebLocation,
    is_network_location,
    parse_location,
)

__all__ = [
    "DEFAULT_DEADLINE",
    "AllowList",
    "Buckets",
    "Credentials",
    "ForwardingBuckets",
    "ForwardingStore",
    "Meter",
    "MeteredBuckets",
    "MeteredStore",
    "ObjectInfo",
    "S3Location",
    "Store",
    "WebLocation",
    "check_key",
    "is_network_location",
    "parse_location",
]
