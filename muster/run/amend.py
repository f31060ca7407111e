"""Amending a run: what an amendment is judged by, who signs it, and where leaders take it from.

It is judged as a leader will judge it: by the ledger as it stands, and by what waits to be recorded before it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import rfc8785

from muster.history.walk import newest
from muster.node.amendments import DEADLINE, Waiting, find_waiting, places
from muster.node.directory import Directory
from muster.protocol import paths, wire
from muster.protocol.errors import ConfigError, IdentityError, LedgerError, StorageError, UsageError, WireError
from muster.protocol.identity import Identity, hotkey_of, public_of
from muster.protocol.ledger import RESCUE, Tip, rescuer
from muster.protocol.rules.majority import carried_by
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Credentials, Store, parse_location
from muster.protocol.storage.pointer import stands_for
from muster.protocol.wire import Amendment, ScoresUsed
from muster.run.credentials import ACCESS_KEY, SECRET_KEY, load_credentials, load_identity
from muster.run.fetch import open_run
from muster.run.folder import RunDirectory

SPARE_ROUNDS = 3
"""Rounds that are left beyond the soonest, unless told otherwise, until every leader has found the amendment."""

OWNER = "owner"
"""What the owner's key is called in the folder of a run that was laid out with it."""


@dataclass(frozen=True, slots=True)
class AmendRequest:
    """What `muster spec amend` was asked for; None is not given.

    One of `change` (PATH=VALUE), `sign` and `submit` is given; with `rescue` it is to close the open round, which
    hangs. `location`, `chain` and `allow` are the settings.
    """

    run: str
    change: str | None = None
    round: int | None = None
    sign: Path | None = None
    submit: Path | None = None
    out: Path | None = None
    key_file: Path | None = None
    location: str | None = None
    chain: str | None = None
    allow: str = ""
    rescue: bool = False


@dataclass(frozen=True, slots=True)
class Amended:
    """An amendment with who has signed it, whether that is enough (`signed` says so), and where it is now."""

    amendment: Amendment
    signed: str
    enough: bool
    where: str

    def to_json_object(self) -> dict[str, object]:
        """What `muster spec amend --json` prints."""
        one = self.amendment
        return {
            "number": one.number,
            "path": one.path,
            "value": json.loads(one.value),
            "round": one.round,
            "signers": [hotkey_of(public) for public in sorted(one.signers)],
            "enough": self.enough,
            "where": self.where,
        }

    def summary(self) -> str:
        """The same for a person."""
        one = self.amendment
        said = f"amendment {one.number}: {one.path} becomes {one.value} from round {one.round} on"
        return "\n".join([said, self.signed, self.where])


@dataclass(frozen=True, slots=True)
class Desk:
    """All that an amendment is judged by now: `waiting` is recorded before it, `scores` are the newest record's.

    `committed` are the buckets of the run's owner and its validators.
    """

    run: RunDirectory
    tip: Tip
    scores: tuple[ScoresUsed, ...]
    waiting: Waiting
    committed: frozenset[str]
    rescue: bool

    @property
    def owner(self) -> str:
        """The hotkey that needs nobody else's signature."""
        return self.tip.spec.genesis.owner

    @property
    def validators(self) -> frozenset[bytes]:
        """Whose signatures count together."""
        return self.tip.validators - self.tip.silenced

    def before(self, number: int) -> SpecHistory:
        """The spec over time once what waits with a lower number is recorded."""
        history = self.tip.history
        for data in self.waiting.objects[: max(0, number - 1 - len(history.adopted))]:
            history = history.adopt(data, self.tip.round, lambda _signers: True)
        return history

    def judge(self, data: bytes) -> tuple[Amendment, str, bool]:
        """The amendment, who has signed it in words, and whether that is enough for the next record.

        Raises:
            LedgerError: it is none, or no leader would record it whoever signs.
        """
        try:
            number = wire.decode_amendment(data, self.tip.run_id).number
        except WireError as error:
            raise LedgerError(f"these bytes are no amendment of run {self.tip.run_id.hex()}: {error}") from error
        if self.rescue:
            return self._judge_rescue(data)
        history = self.before(number).adopt(data, self.tip.round, lambda _signers: True)
        amendment = history.adopted[-1].amendment
        if history.signed_by_owner(amendment):
            return amendment, "signed by the owner", True
        stakes = {used.validator: used.stake for used in self.scores}
        there = amendment.signers & self.validators
        share = sum(stakes.get(signer, 0) for signer in there) / max(1, sum(stakes.values()))
        enough = carried_by(self.validators, self.scores)(amendment.signers)
        said = f"signed by {len(there)} of {len(self.validators)} validators, with {share:.1%} of the newest stakes"
        need = "it takes more than half of both, and two validators at least"
        return amendment, f"{said}: {'enough' if enough else need}", enough

    def _judge_rescue(self, data: bytes) -> tuple[Amendment, str, bool]:
        tip = self.tip
        named, block = rescuer(tip, data), tip.turn_begins(RESCUE)
        said = f"signed by the owner: {hotkey_of(named)} may close round {tip.round}, with nothing in it, from block"
        return wire.decode_amendment(data, tip.run_id), f"{said} {block} on, and leads from then on", True


async def amend_run(request: AmendRequest, environment: Mapping[str, str]) -> Amended:
    """Make an amendment, sign one that is handed round, or put one where leaders take it from.

    Raises:
        UsageError: what was asked for does not make sense.
        ConfigError, ChainError, StorageError: the run cannot be read, or the amendment not written.
        IdentityError: the key cannot be used, or is not one of who may amend.
        LedgerError: no leader would record it.
    """
    if [request.change, request.sign, request.submit].count(None) != 2:
        raise UsageError("one of PATH=VALUE, --sign FILE and --submit FILE says what to do")
    if request.rescue and request.round is not None:
        raise UsageError("--round does not go with --rescue: the list counts from the round after the open one on")
    if request.round is not None and request.change is None:
        raise UsageError("--round goes with PATH=VALUE: a signed amendment has its round")
    run = await open_run(request.run, allow=request.allow)
    desk = await _sit_down(run, request)
    data = _object(request, desk)
    amendment, signed, enough = desk.judge(data)
    target = request.out or request.sign
    if target is not None:
        _write(target, data)
        what = "submit it with --submit" if enough else "hand it on to be signed with --sign"
        return Amended(amendment, signed, enough, f"written to {target}: {what} {target}")
    if not enough:
        raise LedgerError(f"it is {signed}; write it with --out FILE and hand it on")
    async with _target(request, desk, environment) as (store, shown):
        await store.put(paths.amendment(desk.tip.run_id, amendment.number), data, deadline=DEADLINE)
    looks = "whom it names looks" if request.rescue else "every leader looks"
    where = f"put in {shown}, where {looks}; once it is recorded, `muster spec show` lists it"
    return Amended(amendment, signed, enough, where)


async def _sit_down(run: RunDirectory, request: AmendRequest) -> Desk:
    """Read the ledger, what waits, and who has committed which bucket."""
    client, buckets = run.chain(request.chain, read_only=True), run.buckets(allow=request.allow)
    try:
        directory = Directory(client, buckets, run.history.run_id)
        tip, record = await newest(run.history, client, directory)
        if tip.closed:
            raise LedgerError(f"the run is closed since round {tip.round}; nothing can be amended any more")
        async with run.published(request.allow) as place:
            waiting = await find_waiting(tip, await places(directory, tip, place))
        peers = (await directory.snapshot()).by_hotkey()
    finally:
        await client.close()
        await buckets.close()
    named = (tip.spec.genesis.owner, *tip.spec.genesis.leaders)
    found = (peers[one].location for one in named if one in peers)
    committed = frozenset(location for location in found if location is not None)
    return Desk(run, tip, () if record is None else record.scores, waiting, committed, request.rescue)


def _object(request: AmendRequest, desk: Desk) -> bytes:
    """The amendment that was asked for: a new one, one with a signature more, or one as it is."""
    if request.submit is not None:
        return _read(request.submit)
    identity = _signer(request, desk)
    return _make(request, desk, identity) if request.sign is None else _cosign(request.sign, desk, identity)


def _signer(request: AmendRequest, desk: Desk) -> Identity:
    path, local = request.key_file, desk.run.key(OWNER)
    if path is None and desk.run.source is None and local.exists():
        path = local
    if path is None:
        raise UsageError("name the hotkey that signs with --key-file: the owner's, or a validator's")
    identity = load_identity(path)
    if identity.public != public_of(desk.owner) and identity.public not in desk.validators:
        raise IdentityError(
            f"the hotkey {identity.hotkey} in {path} amends nothing: it is neither the run's owner, {desk.owner}, nor "
            "a validator of the run whose word counts"
        )
    return identity


def _make(request: AmendRequest, desk: Desk, identity: Identity) -> bytes:
    """A new amendment, with the next number, signed by one who may."""
    path, equals, text = (request.change or "").partition("=")
    if not equals:
        raise UsageError("write what changes as PATH=VALUE, for instance inner.lr=0.001")
    try:
        value = rfc8785.dumps(json.loads(text)).decode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{text!r} is no JSON value; a text is written in quotes, a list in brackets") from error
    if not (path + value).isascii():
        raise UsageError("what changes is written in ASCII")
    tip, history, round_ = desk.tip, desk.waiting.history, request.round
    if desk.rescue:
        if identity.hotkey != desk.owner:
            raise UsageError(f"only the run's owner, {desk.owner}, can rescue it")
        number = len(tip.history.adopted) + 1
        return wire.encode_amendment(identity, tip.run_id, number, tip.round + 1, path, value)
    if round_ is None and identity.hotkey != desk.owner:
        raise UsageError("it takes time to collect signatures: say with --round from which round on it is to count")
    if round_ is None:
        round_ = tip.round + history.at(tip.round).clock.amend_delay + SPARE_ROUNDS
    return wire.encode_amendment(identity, tip.run_id, len(history.adopted) + 1, round_, path, value)


def _cosign(path: Path, desk: Desk, identity: Identity) -> bytes:
    data = _read(path)
    amendment, _, _ = desk.judge(data)
    if identity.public in amendment.signers:
        raise UsageError(f"{identity.hotkey} has signed {path} already")
    return wire.cosign_amendment(identity, desk.tip.run_id, data)


@asynccontextmanager
async def _target(
    request: AmendRequest, desk: Desk, environment: Mapping[str, str]
) -> AsyncIterator[tuple[Store, str]]:
    """The place to put an amendment, and what it is called: the named bucket, else where the run is published."""
    run, location = desk.run, request.location
    if location is None:
        if run.source is None and run.on_network:
            raise UsageError(
                f"{run.path} is a copy that leaders do not look at: name the run by its URL, or your bucket with "
                "--location"
            )
        credentials = None if run.source is None else _credentials(environment)
        async with run.published(request.allow, credentials) as store:
            yield store, str(run.path) if run.source is None else parse_location(run.source.location).shown
        return
    if not any(stands_for(committed, location) for committed in desk.committed):
        raise UsageError(
            "no leader looks in the bucket that --location names: it is not one that the run's owner or one of its "
            "validators has committed on chain"
        )
    buckets = run.buckets(location, _credentials(environment) if run.on_network else None, request.allow)
    try:
        yield buckets.bucket(location), parse_location(location).shown if run.on_network else location
    finally:
        await buckets.close()


def _credentials(environment: Mapping[str, str]) -> Credentials:
    credentials = load_credentials(environment)
    if credentials is None:
        raise ConfigError(
            f"{ACCESS_KEY} and {SECRET_KEY} are not set: putting an amendment there needs a key that may write; "
            "with --out FILE it is only written to a file"
        )
    return credentials


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(wire.MAX_AMENDMENT_BYTES + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
