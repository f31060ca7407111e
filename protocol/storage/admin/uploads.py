"""Large objects go up in parts that outlive a failure: the next try, in this life or another, sends what is missing.

A service keeps the parts of an upload that was neither completed nor aborted, and lists them with the MD5 of each. So
nothing has to be remembered here: what is there and is the same is not sent again, whatever else is there is replaced.
Where a service does not list uploads, or gives parts other tags, all of it is sent again. What nobody went on with for
a day is aborted, for parts cost their owner money.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from muster.protocol.errors import StorageError
from muster.protocol.storage.admin.service import Refused, Service
from muster.protocol.storage.s3_location import Credentials, S3Location

log = logging.getLogger(__name__)
T = TypeVar("T")

PARTS_AT_ONCE = 4
ABANDONED = timedelta(days=1)
"""Nobody goes on with what is older: a round is over long before, and a checkpoint has a later one."""

_NO_UPLOAD = "NoSuchUpload"


@dataclass(frozen=True, slots=True)
class _Object:
    """What is stored: its key, its name in the bucket, its bytes, and how many of them make a part."""

    key: str
    name: str
    body: bytes | Path
    part: int

    def read(self, number: int) -> bytes:
        """One part, counted from 1.

        Raises:
            StorageError: the file cannot be read.
        """
        start = (number - 1) * self.part
        if isinstance(self.body, bytes):
            return self.body[start : start + self.part]
        try:
            with self.body.open("rb") as file:
                file.seek(start)
                return file.read(self.part)
        except OSError as error:
            raise StorageError(f"cannot store {self.key}: {self.body} cannot be read: {error.strerror}") from error


@dataclass(slots=True)
class _Upload:
    """One that is not completed: the tags of its parts by number, and whether a later try finds it again (or none
    needs to)."""

    id: str
    tags: dict[int, str] = field(default_factory=dict)
    lasting: bool = True


class Uploads:
    """The unfinished uploads of one bucket, in its owner's hands."""

    def __init__(self, location: S3Location, credentials: Credentials | None, roots: bytes | None) -> None:
        """Open nothing yet; `roots` are certificates (PEM) to trust in place of the system's."""
        self._location = location
        self._credentials = credentials
        self._roots = roots
        self._trusted: IO[bytes] | None = None
        self._made: Service | None = None
        self._making = threading.Lock()
        self._slots = asyncio.Semaphore(PARTS_AT_ONCE)

    async def send(self, key: str, body: bytes | Path, size: int, part: int) -> None:
        """Store `size` bytes under `key`, `part` bytes at a time; what an earlier try has sent stays.

        Raises:
            StorageError: refused, failed, or `body` cannot be read.
        """
        name = f"{self._location.prefix}/{key}" if self._location.prefix else key
        what = _Object(key, name, body, part)
        upload = await self._threaded(partial(self._open, what))
        count = max(1, -(-size // part))
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [partial(self._part, what, upload, number) for number in range(1, count + 1)]
                sent = [tasks.create_task(self._threaded(work)) for work in parts]
            tags = [one.result() for one in sent]
            await self._threaded(partial(self._complete, what, upload, tags, size))
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            if not upload.lasting:
                self._start(partial(self._abort, upload, name))

    def close(self) -> None:
        """Let go of the file of certificates."""
        if self._trusted is not None:
            self._trusted.close()

    def _open(self, what: _Object) -> _Upload:
        """The upload to go on with; a new one where there is none."""
        service, bucket = self._service(), self._location.bucket
        with service.doing(f"store {what.key}"):
            mine = self._unfinished(what.name)
            for one in (mine or [])[:-1]:
                self._abort(_Upload(one["UploadId"]), what.name)
            if not mine:
                made = service.s3.create_multipart_upload(Bucket=bucket, Key=what.name)["UploadId"]
                return _Upload(made, lasting=mine is not None)
            upload = _Upload(mine[-1]["UploadId"])
            pages = service.s3.get_paginator("list_parts")
            for page in pages.paginate(Bucket=bucket, Key=what.name, UploadId=upload.id):
                upload.tags.update({one["PartNumber"]: one["ETag"].strip('"') for one in page.get("Parts", [])})
            return upload

    def _unfinished(self, name: str) -> list[Any] | None:
        """The uploads of that object, the newest last; None where the service, or the key, does not list any.

        Others of this place that are abandoned are aborted.
        """
        service, place = self._service(), self._location
        found: list[Any] = []
        try:
            with service.doing("look for unfinished uploads"):
                pages = service.s3.get_paginator("list_multipart_uploads")
                for page in pages.paginate(Bucket=place.bucket, Prefix=f"{place.prefix}/" if place.prefix else ""):
                    found += page.get("Uploads", [])
        except Refused as refused:
            log.debug("a large upload begins anew: %s", refused)
            return None
        oldest = datetime.now(UTC) - ABANDONED
        for one in found:
            if one["Key"] != name and one["Initiated"] < oldest:
                self._abort(_Upload(one["UploadId"]), one["Key"])
        return sorted((one for one in found if one["Key"] == name), key=lambda one: one["Initiated"])

    def _abort(self, upload: _Upload, name: str) -> None:
        """Let the parts go; where that fails, the bucket's rule for incomplete uploads does it."""
        service = self._service()
        try:
            with service.doing("abort an upload"):
                service.s3.abort_multipart_upload(Bucket=self._location.bucket, Key=name, UploadId=upload.id)
        except StorageError as error:
            log.debug("an upload is not aborted: %s", error)

    def _part(self, what: _Object, upload: _Upload, number: int) -> str:
        """Have one part there; its tag."""
        data = what.read(number)
        digest = hashlib.md5(data, usedforsecurity=False)
        if upload.tags.get(number) == digest.hexdigest():
            return digest.hexdigest()
        service = self._service()
        with service.doing(f"store {what.key}"):
            answer = service.s3.upload_part(
                Bucket=self._location.bucket,
                Key=what.name,
                UploadId=upload.id,
                PartNumber=number,
                Body=data,
                ContentMD5=b64encode(digest.digest()).decode(),
            )
        return str(answer["ETag"]).strip('"')

    def _complete(self, what: _Object, upload: _Upload, tags: list[str], size: int) -> None:
        service, bucket = self._service(), self._location.bucket
        parts: Any = {"Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]}
        try:
            with service.doing(f"store {what.key}"):
                service.s3.complete_multipart_upload(
                    Bucket=bucket, Key=what.name, UploadId=upload.id, MultipartUpload=parts
                )
        except Refused as refused:
            # It was completed, and only the answer was lost: the client has asked again.
            if refused.reason != _NO_UPLOAD or self._size(what.name) != size:
                raise
        upload.lasting = True

    def _size(self, name: str) -> int:
        service = self._service()
        with service.doing("look at what was stored"):
            return int(service.s3.head_object(Bucket=self._location.bucket, Key=name)["ContentLength"])

    def _service(self) -> Service:
        with self._making:
            if self._made is None:
                if self._roots is not None:  # the client takes them as a file only
                    self._trusted = tempfile.NamedTemporaryFile(prefix="muster-roots-", suffix=".pem")  # noqa: SIM115
                    self._trusted.write(self._roots)
                    self._trusted.flush()
                trusted = None if self._trusted is None else self._trusted.name
                self._made = Service(self._location, self._credentials, trusted)
            return self._made

    async def _threaded(self, work: Callable[[], T]) -> T:
        """Blocking work beside the loop, a few at once; it ends by itself where nobody waits for it any more."""
        await self._slots.acquire()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            self._slots.release()
            if done.cancelled():
                return
            if error is None:
                done.set_result(cast(T, result))
            else:
                done.set_exception(error)

        self._start(work, finish)
        return await done

    def _start(
        self, work: Callable[[], T], finish: Callable[[T | None, BaseException | None], None] | None = None
    ) -> None:
        """In a thread of its own, not the loop's: a network that swallows what is sent would take those from everybody
        else, and the process waits for them when it ends."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as problem:  # noqa: BLE001 - handed to who waits
                error = problem
            if finish is not None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="upload", daemon=True).start()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf
