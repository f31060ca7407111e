"""One S3 service as one pair of keys sees it, and its refusals as sentences a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as NoConnection

from muster.protocol.errors import StorageError, StoreUnreachable
from muster.protocol.storage.s3_location import Credentials, S3Location, WebLocation, parse_location

_CONNECT_S = 5
_READ_S = 20
_ATTEMPTS = 4
"""With boto3's pauses in between, an operator waits about two minutes at most for a service that is silent."""

_MAKING = Lock()
"""boto3's session is not safe to make clients from in several threads; the clients are. One of its own is slow."""

_AWS = ".amazonaws.com"
_R2 = ".r2.cloudflarestorage.com"

_MEANING = {
    "InvalidAccessKeyId": "the service does not know the access key; check it, and that it belongs to this service",
    "SignatureDoesNotMatch": "the secret does not belong to the access key; check both for copying mistakes",
    "AccessDenied": "the key (or the public) may not do this; check its rights and the bucket's policy",
    "NoSuchBucket": "there is no such bucket; make it with `muster bucket create`",
    "BucketAlreadyExists": "the name belongs to somebody else; choose another",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the service's; set it (NTP)",
    "TooManyBuckets": "the account has as many buckets as it may; remove one or raise the limit",
    "NotImplemented": "the service cannot do this",
    "MethodNotAllowed": "the service cannot do this",
    "PermanentRedirect": "the bucket is in another region; give that region and its endpoint",
    "AuthorizationHeaderMalformed": "the region is not the service's; give --region, or region= in the location",
    "IllegalLocationConstraintException": "the region is not the endpoint's; give the endpoint of that region",
    "401": "the service wants other credentials",
    "403": "the key may not do this, or the bucket belongs to somebody else; check the key and the bucket's name",
    "404": "there is no such bucket",
}


class Refused(StorageError):
    """The service answered, and the answer was no. `reason` is its error code, or the HTTP status without one."""

    def __init__(self, action: str, where: str, reason: str) -> None:
        meaning = _MEANING.get(reason, f"the service answered {reason}")
        super().__init__(f"cannot {action} at {where}: {meaning}")
        self.reason = reason


class Service:
    """The S3 API at a location's host with `credentials`; without them requests are not signed.

    `roots` is a file of certificates (PEM) to trust in place of the system's.
    """

    def __init__(self, location: S3Location, credentials: Credentials | None, roots: str | None = None) -> None:
        config = Config(
            signature_version="s3v4" if credentials else UNSIGNED,
            # Checksum trailers are refused by many services that are not Amazon's.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "virtual" if location.virtual else "path"},
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
        self.location = location
        with _MAKING:
            self.s3 = boto3.client(
                "s3",
                endpoint_url=service_url(location),
                region_name=location.region,
                # Never what the machine's own configuration or metadata service offers.
                aws_access_key_id=credentials.access if credentials else None,
                aws_secret_access_key=credentials.secret if credentials else None,
                config=config,
                verify=roots,
            )

    @contextmanager
    def doing(self, action: str) -> Iterator[None]:
        """Turn what boto3 raises into `StorageError`s that say that `action` failed here, and why.

        Raises:
            Refused: the service said no.
            StorageError: it did not answer.
        """
        with explained(action, self.location.shown):
            yield


@contextmanager
def explained(action: str, where: str) -> Iterator[None]:
    """Like `Service.doing`, for any client of boto3."""
    try:
        yield
    except ClientError as error:
        raise Refused(action, where, _reason(error)) from error
    except SSLError as error:
        raise StorageError(
            f"cannot {action} at {where}: no trusted TLS there; check the certificate, or add tls=off if that is meant"
        ) from error
    except (NoConnection, HTTPClientError) as error:
        raise StoreUnreachable(
            f"cannot {action} at {where}: no answer; check host and port, and that the service runs"
        ) from error
    except BotoCoreError as error:
        raise StorageError(f"cannot {action} at {where}: the client gave up ({type(error).__name__})") from error


def service_url(location: S3Location) -> str:
    """The URL of the service itself, whatever the location's style."""
    return replace(location, virtual=False).endpoint


def is_aws(location: S3Location) -> bool:
    """Whether the service is Amazon's, where users are made by IAM."""
    return location.host.endswith(_AWS)


def is_r2(location: S3Location) -> bool:
    """Whether the service is Cloudflare R2, whose tokens are made in its dashboard only."""
    return location.host.endswith(_R2)


def service_location(endpoint: str, bucket: str, region: str | None = None) -> S3Location:
    """The location of a bucket at `endpoint`: http(s)://HOST[:PORT], or HOST[:PORT] with the grammar's defaults.

    Raises:
        StorageError: not such an endpoint, or not a legal name of a bucket or region.
    """
    scheme, found, rest = endpoint.partition("://")
    address = (rest if found else endpoint).removesuffix("/")
    options = [f"region={region}"] if region else []
    if found:
        if scheme not in {"http", "https"}:
            raise StorageError("the endpoint of an S3 service begins with https:// or http://")
        options.append(f"tls={'on' if scheme == 'https' else 'off'}")
    if not address or set(address) & set("/?@"):
        raise StorageError("the endpoint of an S3 service is https://HOST[:PORT] and nothing more")
    location = parse_location(f"s3://{address}/{bucket}" + ("?" + "&".join(options) if options else ""))
    if isinstance(location, WebLocation) or location.prefix:
        raise StorageError("a bucket's name is 3 to 63 lower-case letters, digits, dots and hyphens")
    return location


def _reason(error: ClientError) -> str:
    """The service's error code; a HEAD's answer has none but its status."""
    return str(error.response.get("Error", {}).get("Code", "")) or "an error without a code"
