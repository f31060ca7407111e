"""What an object service's refusal means and what to do about it, in one sentence without secrets."""

from __future__ import annotations

import re

from obstore.exceptions import BaseError

from muster.protocol.errors import ObjectMissing, StorageError, StoreUnreachable

FAILURES = (BaseError, FileNotFoundError, ValueError)
"""Everything the S3 client raises by design; its texts may hold what a stranger's server said."""

_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_STATUS = re.compile(r"non-2xx status code: ([0-9]{3})")

NO_BUCKET = "NoSuchBucket"

_MEANING = {
    "InvalidAccessKeyId": "the service does not know the access key; check it, and that it belongs to this service",
    "SignatureDoesNotMatch": "the secret does not belong to the access key; check both for copying mistakes",
    "AccessDenied": "the key (or the public) may not do this; check the bucket's policy",
    NO_BUCKET: "there is no such bucket; check the location, or make the bucket first",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the service's; set it (NTP)",
    "ExpiredToken": "the credentials have expired; get new ones",
    "InvalidToken": "the session token is not valid; get new credentials",
    "QuotaExceeded": "the bucket's quota is used up; free some space or raise it",
    "SlowDown": "the service asks for fewer requests; try again later",
    "EntityTooLarge": "the object is larger than the service takes",
    "PermanentRedirect": "the bucket is in another region; correct the location's host or region",
    "AuthorizationHeaderMalformed": "the region is not the service's; correct region= in the location",
}

_STATUS_MEANING = {
    "401": "the service wants other credentials; check the key",
    "403": "the service refused the key or the clock; check the key, the bucket's policy and this machine's time",
    "404": "there is nothing at this address; check the location",
    "429": "the service asks for fewer requests; try again later",
    "507": "the service is full",
}

_SIGNS = (
    ("invalid path", "an object there has a name that no store of ours gives; remove it"),
    ("edirect", "the service sends us elsewhere; correct the location's host or region"),
    ("ertificate", "the service's TLS certificate is not trusted by this machine"),
    ("InvalidContentType", "the service does not speak TLS there; add tls=off to the location if that is meant"),
    ("ContentLengthMissing", "the service does not say how large the object is"),
    ("MissingContentLength", "the service does not say how large the object is"),
    ("body error", "the connection broke while the object was read"),
)

_SIGNS_OF_NO_ANSWER = (
    ("ConnectionRefused", "nothing listens at that address; check host and port, and that the service runs"),
    ("dns error", "the host is not known; check its spelling and this machine's name resolution"),
    ("failed to lookup", "the host is not known; check its spelling and this machine's name resolution"),
    ("TimedOut", "the service did not answer in time"),
    ("operation timed out", "the service did not answer in time"),
    ("error sending request", "no connection to the service; check the network and the location"),
)


def service_code(error: BaseException) -> str:
    """The S3 error code in an answer, its HTTP status where there is none, or nothing."""
    text = str(error)
    found = _CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""


def storage_error(action: str, where: str, error: BaseException) -> StorageError:
    """The error to raise for a client's `error`: `cannot ACTION in WHERE: what it means`."""
    code = service_code(error)
    if isinstance(error, FileNotFoundError) and code != NO_BUCKET:
        return ObjectMissing(f"cannot {action} in {where}: there is no such object")
    if code in _MEANING:
        return StorageError(f"cannot {action} in {where}: {_MEANING[code]}")
    if code in _STATUS_MEANING:
        return StorageError(f"cannot {action} in {where}: {_STATUS_MEANING[code]}")
    if code:
        return StorageError(f"cannot {action} in {where}: the service answered {code}")
    text = str(error)
    for kind, signs in ((StorageError, _SIGNS), (StoreUnreachable, _SIGNS_OF_NO_ANSWER)):
        for sign, meaning in signs:
            if sign in text:
                return kind(f"cannot {action} in {where}: {meaning}")
    return StorageError(f"cannot {action} in {where}: the service's answer makes no sense to the S3 client")
