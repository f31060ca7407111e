"""Users that exist for one bucket only: what makes a key that may stand on chain for everybody to read.

S3 itself knows no users. Ceph's gateway makes them by its Admin Ops API, Amazon by IAM; other services make
keys in a dashboard, if at all.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from enum import Enum
from typing import Any

import boto3
from blake3 import blake3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

from muster.protocol.errors import StorageError
from muster.protocol.storage.admin.service import Refused, explained, is_aws, is_r2, service_url
from muster.protocol.storage.s3_location import Credentials, S3Location

_MAX_NAME = 64
"""Characters of an IAM user's name."""
_DIGEST_CHARACTERS = 8
_DEADLINE_S = 20
_NO_BUCKETS = "-1"
"""Ceph's max-buckets of a user who may make none."""
_NO_USER = "NoSuchUser"
_IAM_POLICY = "muster"


class Access(Enum):
    """What a user may do in its bucket; the values are S3 actions."""

    READ = ("s3:GetObject", "s3:ListBucket")
    WRITE = (
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        "s3:ListBucketMultipartUploads",
        "s3:GetLifecycleConfiguration",
    )


def reader_name(bucket: str) -> str:
    """The user that reads `bucket` for everybody."""
    return _user_name("muster-read", bucket)


def writer_name(bucket: str) -> str:
    """The user that writes `bucket` for its participant."""
    return _user_name("muster-write", bucket)


def statement(bucket: str, sid: str, actions: tuple[str, ...], principal: object = None) -> dict[str, object]:
    """One statement of a policy that allows `actions` in one bucket; a user's own policy names no principal."""
    allowed: dict[str, object] = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    return allowed if principal is None else {**allowed, "Principal": principal}


class Accounts(ABC):
    """A service's way to make users who can do something in one bucket and nothing anywhere else."""

    @abstractmethod
    def open(self, name: str, bucket: str, access: Access) -> Credentials:
        """Find or make the user and return a key of it; where secrets cannot be read again, a new one."""

    @abstractmethod
    def principal(self, name: str) -> str | None:
        """How the bucket's policy must name the user; None where the user has its rights by itself."""

    @abstractmethod
    def keys(self, name: str) -> list[str]:
        """The user's access keys; raises `Refused` (NoSuchUser, NoSuchEntity) if there is no such user."""

    @abstractmethod
    def add_key(self, name: str) -> Credentials:
        """Another key for the user; the old ones keep working."""

    @abstractmethod
    def revoke(self, name: str, access: str) -> None:
        """End one key."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the user and its keys; one that is not there is not an error."""

    def keep_only(self, name: str, access: str) -> int:
        """End every key of the user but one; returns how many ended."""
        old = [key for key in self.keys(name) if key != access]
        for key in old:
            self.revoke(name, key)
        return len(old)


class RadosAccounts(Accounts):
    """Users of a Ceph Object Gateway, made with keys that have the capability `users=*`."""

    def __init__(self, location: S3Location, admin: Credentials) -> None:
        self._url = f"{service_url(location)}/admin/user"
        self._where = service_url(location)
        self._sign = S3SigV4Auth(BotoCredentials(admin.access, admin.secret), "s3", location.region)
        self._session = URLLib3Session(timeout=_DEADLINE_S)

    def open(self, name: str, bucket: str, access: Access) -> Credentials:  # noqa: ARG002
        """Find or make the user; the bucket's policy gives it its rights."""
        try:
            found = self._call("GET", "find a user", uid=name)
        except Refused as refused:
            if refused.reason != _NO_USER:
                raise
            new = {"uid": name, "display-name": name, "max-buckets": _NO_BUCKETS}
            found = self._call("PUT", "make a user", **new)
        return _pair(found["keys"][-1]) if found["keys"] else self.add_key(name)

    def principal(self, name: str) -> str:
        """The user's ARN."""
        return f"arn:aws:iam:::user/{name}"

    def keys(self, name: str) -> list[str]:
        """The user's access keys."""
        return [str(key["access_key"]) for key in self._call("GET", "find a user", uid=name)["keys"]]

    def add_key(self, name: str) -> Credentials:
        """One more key. The gateway chooses it (a secret in our request's URL would stand in its log)."""
        before = self.keys(name)
        after = self._call("PUT", "make a key", key="", uid=name)
        new = [key for key in after if key["access_key"] not in before]
        if len(new) != 1:
            raise StorageError(f"somebody else changed the keys of {name} at {self._where} meanwhile; try again")
        return _pair(new[0])

    def revoke(self, name: str, access: str) -> None:
        """End one key."""
        self._call("DELETE", "revoke a key", key="", uid=name, **{"access-key": access})

    def remove(self, name: str) -> None:
        """Remove the user."""
        try:
            self._call("DELETE", "remove a user", uid=name)
        except Refused as refused:
            if refused.reason != _NO_USER:
                raise

    def serves(self) -> bool:
        """Whether this is such a gateway and the keys may make users.

        Raises:
            Refused: the gateway does not know the keys.
        """
        try:
            self._call("GET", "look for the user API", uid="muster-nobody")
        except Refused as refused:
            if refused.reason in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}:
                raise
            return refused.reason == _NO_USER
        return True

    def _call(self, method: str, action: str, **parameters: str) -> Any:
        """One signed call; its answer from JSON, None where it has no body."""
        request = AWSRequest(method, self._url, params={**parameters, "format": "json"})
        self._sign.add_auth(request)
        with explained(action, self._where):
            answer = self._session.send(request.prepare())
        try:
            body = json.loads(answer.content) if answer.content else None
        except ValueError:  # not such a gateway: some answer in XML or HTML
            body = None
        if answer.status_code != 200:
            code = body.get("Code") if isinstance(body, dict) else None
            raise Refused(action, self._where, str(code or answer.status_code))
        return body


class IamAccounts(Accounts):
    """Users of an Amazon account, made with keys that may use IAM."""

    def __init__(self, admin: Credentials, client: Any = None) -> None:
        """`client` replaces the IAM client that boto3 makes from the keys."""
        self._iam = client or boto3.Session().client(
            "iam",
            region_name="us-east-1",
            aws_access_key_id=admin.access,
            aws_secret_access_key=admin.secret,
            config=Config(connect_timeout=_DEADLINE_S, read_timeout=_DEADLINE_S, retries={"mode": "standard"}),
        )

    def open(self, name: str, bucket: str, access: Access) -> Credentials:
        """Find or make the user, give it its rights and one new key in place of the old ones."""
        policy = {"Version": "2012-10-17", "Statement": [statement(bucket, "Muster", access.value)]}
        with explained("make a user", "IAM"):
            try:
                self._iam.create_user(UserName=name)
            except ClientError as error:
                if error.response["Error"]["Code"] != "EntityAlreadyExists":
                    raise
            self._iam.put_user_policy(UserName=name, PolicyName=_IAM_POLICY, PolicyDocument=json.dumps(policy))
        # A user has two keys at most, and the secret of an old one cannot be read again.
        for key in self.keys(name):
            self.revoke(name, key)
        return self.add_key(name)

    def principal(self, name: str) -> None:  # noqa: ARG002
        """A user's own policy says what it may do."""
        return

    def keys(self, name: str) -> list[str]:
        """The user's access keys."""
        with explained("list a user's keys", "IAM"):
            found = self._iam.list_access_keys(UserName=name)["AccessKeyMetadata"]
        return [str(key["AccessKeyId"]) for key in found]

    def add_key(self, name: str) -> Credentials:
        """One more key."""
        with explained("make a key", "IAM"):
            key = self._iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def revoke(self, name: str, access: str) -> None:
        """End one key."""
        with explained("revoke a key", "IAM"):
            self._iam.delete_access_key(UserName=name, AccessKeyId=access)

    def remove(self, name: str) -> None:
        """Remove keys, policy and user: IAM removes no user who still has something."""
        try:
            for key in self.keys(name):
                self.revoke(name, key)
            with explained("remove a user", "IAM"):
                self._iam.delete_user_policy(UserName=name, PolicyName=_IAM_POLICY)
                self._iam.delete_user(UserName=name)
        except Refused as refused:
            if refused.reason != "NoSuchEntity":
                raise


def find_accounts(location: S3Location, admin: Credentials) -> Accounts | None:
    """The service's way to make users with these keys, None where there is none.

    Raises:
        StorageError: the service does not answer, or does not know the keys.
    """
    if is_aws(location):
        return IamAccounts(admin)
    if is_r2(location):
        return None
    gateway = RadosAccounts(location, admin)
    return gateway if gateway.serves() else None


def _user_name(role: str, bucket: str) -> str:
    name = f"{role}-{bucket}"
    if len(name) <= _MAX_NAME:
        return name
    mark = blake3(bucket.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: _MAX_NAME - _DIGEST_CHARACTERS - 1]}-{mark}"


def _pair(key: dict[str, object]) -> Credentials:
    try:
        return Credentials(str(key["access_key"]), str(key["secret_key"]))
    except KeyError as error:
        raise StorageError("the gateway's answer about a user's keys is incomplete") from error
