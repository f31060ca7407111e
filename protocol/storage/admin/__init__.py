"""Making, guarding and checking buckets: what an operator does with keys that no participant of a run holds.

Everything here blocks (boto3): from a task, call it in a thread. Nothing else in Muster imports boto3; of the rest of
`muster.protocol.storage` only large uploads use this package (`uploads`, which waits in threads of its own). boto3
takes half a second to load: what this package exports is loaded when it is first asked for (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.protocol.storage.admin.accounts import Access, Accounts, find_accounts, reader_name
    from muster.protocol.storage.admin.bucket import BucketAdmin, LifecycleRule, abort_rule, expiry_rule
    from muster.protocol.storage.admin.check import Finding, check_bucket
    from muster.protocol.storage.admin.provision import Provisioned, Provisioner
    from muster.protocol.storage.admin.service import Refused, Service, service_location

__all__ = [
    "Access",
    "Accounts",
    "BucketAdmin",
    "Finding",
    "LifecycleRule",
    "Provisioned",
    "Provisioner",
    "Refused",
    "Service",
    "abort_rule",
    "check_bucket",
    "expiry_rule",
    "find_accounts",
    "reader_name",
    "service_location",
]

_MODULES = {
    "Access": "accounts",
    "Accounts": "accounts",
    "BucketAdmin": "bucket",
    "Finding": "check",
    "LifecycleRule": "bucket",
    "Provisioned": "provision",
    "Provisioner": "provision",
    "Refused": "service",
    "Service": "service",
    "abort_rule": "bucket",
    "check_bucket": "check",
    "expiry_rule": "bucket",
    "find_accounts": "accounts",
    "reader_name": "accounts",
    "service_location": "service",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
