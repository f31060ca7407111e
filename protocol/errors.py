"""One tree of errors, so that whoever meets one knows its code, its exit status and what to do.

    MusterError            1  something went wrong that is not any of the below
    ├── UsageError         2  a flag or an argument does not make sense
    ├── ConfigError        3  a preset, a TOML file or a run spec is not valid
    │   ├── HotkeyInUse       another process of this machine has the hotkey's role
    │   └── ProtocolMismatch  the run speaks another protocol than this release
    ├── StorageError       4  the object store failed
    │   ├── ObjectMissing     no such object
    │   ├── ObjectTooLarge    an object exceeds the cap its reader set
    │   ├── StoreUnreachable  the service does not answer
    │   ├── ObjectDamaged     bytes are not those that a digest names: to be read again, or elsewhere
    │   └── DiskFailed        this machine's own disk does not take something: nobody else's fault
    ├── ChainError         5  the chain refused or could not be reached
    │   ├── ChainUnreachable  no endpoint answers
    │   ├── StaleChain        the endpoints that answer do not show new blocks
    │   ├── NotRegistered  13  the hotkey has no slot on the subnet
    │   ├── NotPermitted      the hotkey may not do that: no permit, too little stake, another's key
    │   └── RateLimited       too soon or too much; the chain takes it later
    ├── LedgerError        6  a seal, record, bundle or checkpoint is not what it must be
    │   └── AuditError        the audit found the first bad object
    ├── DataError          7  the training text is missing or not the one the run pins
    ├── WireError          8  bytes that came from a peer are not valid (carries a reason)
    ├── IdentityError      9  a key is missing, unreadable or not the expected one
    └── RunFailed         10  a run ended, but not as it had to

The number is the process's exit status; `code` is the stable name in logs and `--json` output. `muster doctor` ends
with 11 where the machine itself is at fault.
"""

from __future__ import annotations

from typing import ClassVar


class MusterError(Exception):
    """Base of every error Muster raises on purpose; its text is a sentence a person can act on.

    `subject` is the key of the object it is about, "" where there is none.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    subject: str = ""


class UsageError(MusterError):
    """A flag or an argument does not make sense."""

    code = "usage"
    exit_status = 2


class ConfigError(MusterError):
    """A preset, a TOML file or a run spec is not valid."""

    code = "config"
    exit_status = 3


class HotkeyInUse(ConfigError):
    """Another process of this machine has this hotkey's role in this run."""

    code = "config.hotkey_in_use"


class ProtocolMismatch(ConfigError):
    """The run speaks another protocol than this release."""

    code = "config.protocol"


class StorageError(MusterError):
    """The object store failed or refused."""

    code = "storage"
    exit_status = 4


class ObjectMissing(StorageError):
    """No object is stored under the key."""

    code = "storage.missing"


class ObjectTooLarge(StorageError):
    """An object is larger than the cap its reader set; nothing of it was kept."""

    code = "storage.too_large"


class StoreUnreachable(StorageError):
    """The service gave no answer: there is no connection to it, or nothing came within the deadline."""

    code = "storage.unreachable"


class ObjectDamaged(StorageError):
    """What was read is not what a digest names: a fault of the transport, so it is read again, or elsewhere.

    `reason` is the slug of what would be wrong with the object if these were its bytes, "" where none is named.
    """

    code = "storage.damaged"

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason


class DiskFailed(StorageError):
    """This machine's own disk is full, read-only or gone: no other peer has to do with it."""

    code = "storage.disk"


class ChainError(MusterError):
    """The chain refused an extrinsic or could not be reached."""

    code = "chain"
    exit_status = 5


class ChainUnreachable(ChainError):
    """No endpoint of the chain answers."""

    code = "chain.unreachable"


class StaleChain(ChainError):
    """Every endpoint that answers is far behind the clock."""

    code = "chain.stale"


class NotRegistered(ChainError):
    """The hotkey has no slot on the subnet: a person has to register it."""

    code = "chain.not_registered"
    exit_status = 13


class NotPermitted(ChainError):
    """The hotkey may not do that: it has no permit, too little stake, or is not the owner's."""

    code = "chain.not_permitted"


class RateLimited(ChainError):
    """Too soon or too much; the chain takes it later."""

    code = "chain.rate_limited"


class LedgerError(MusterError):
    """A seal, record, bundle or checkpoint is not what the rules make it."""

    code = "ledger"
    exit_status = 6


class AuditError(LedgerError):
    """The audit found an object that is not what it must be."""

    code = "audit"


class ScoresFault(MusterError):
    """The audit found the ledger right, and a validator's file of scores that is not what it must be."""

    code = "audit.scores"
    exit_status = 12


class DataError(MusterError):
    """The training text is missing or is not the one the run spec pins."""

    code = "data"
    exit_status = 7


class WireError(MusterError):
    """Bytes that came from outside are not valid.

    `reason` is a stable slug (`snake_case`): the name a rejection has in records, reports and metrics.
    """

    code = "wire"
    exit_status = 8

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class IdentityError(MusterError):
    """A key is missing, unreadable or not the expected one."""

    code = "identity"
    exit_status = 9


class RunFailed(MusterError):
    """A run ended, but not as it had to: replicas disagree, or a participant kept failing."""

    code = "run"
    exit_status = 10
