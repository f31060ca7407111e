"""Making, guarding and checking buckets: what an operator does with keys that no participant of a run holds.

Everything here blocks (boto3): from a task, call it in a thread. Nothing else in Muster imports boto3, and the
rest of `muster.protocol.storage` does not import this package.
"""

from __future__ import annotations

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
