"""The matrix of faults: every step of the protocol that can fail, how it can, and the rule that says what that costs.

The rule. A step that fails is done again at the next block, so from kind and number of a fault follows for how many
blocks the step is held up: n. The phase the step belongs to has a limit L in the spec's clock. While n < L nobody loses
anything: the run takes n blocks longer at the most, and θ has the same bits. Where n ≥ L the peer that is behind the
step, and nobody else, has in that round the reason that docs/protocol.md (§9, §10) gives for it; it is back once the
fault is over. What holds up a leader has no limit, because the turn to close a round does not pass on; what holds up a
follower that neither mines nor scores costs nobody anything: only its vote is late, and what waits for that. (On chain,
nano's miners earn nothing: weights that cannot be set are shown where there are some, in tests/validator/gauntlet.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from nano_stage import BLOCK, Setting

from muster.lab.faults import Fault, Kind
from muster.protocol.spec import RunSpec

ROUNDS, LAST = 3, 2
"""Two rounds in which things go wrong at the most, and one to be back in."""

MIN_BLOCKS = 7
"""So that a round is long enough for a fault to be over in the next one; round 0 is sealed at this block."""

LEADER, VALIDATOR, MINER, FOLLOWER = "aggregator-0", "validator-0", "miner-0", "aggregator-1"

_SHORT = {"min_blocks": MIN_BLOCKS, "deadline": MIN_BLOCKS, "reveal": 6, "grace": 5, "checkpoint_every": 1}
_SHORT |= {"seal_age": 6, "evaluate": 8}
_LONG = _SHORT | {"deadline": 40, "reveal": 30, "grace": 28, "seal_age": 28, "evaluate": 29}
HASTY = Setting("hasty", _SHORT, score_wait=3)
PATIENT = Setting("patient", _LONG, score_wait=30)
HASTY_STRANGER = Setting("hasty-stranger", _SHORT, score_wait=3, strangers=("miner-0",))
PATIENT_STRANGER = Setting("patient-stranger", _LONG, score_wait=30, strangers=("miner-0",))
HASTY_PAIR = Setting("hasty-pair", _SHORT, score_wait=3, operators=2)
ONE_SEAT = Setting("one-seat", _SHORT, score_wait=3, seats=1)
"""Limits below ten blocks, and above."""


class Bound(Enum):
    """What the blocks that a step is held up for are measured with."""

    LEADER = "nothing: everybody waits for the leader"
    NOBODY = "nothing: nobody waits for it"
    SEAL = "the deadline of the round"
    REVEAL = "the time for keys and payloads of expected peers"
    GRACE = "the time for those of strangers"
    PAYLOAD = "the time for payloads, from the beginning of the round"
    NEXT = "the deadline of the following round"
    STEER = "the time for scores, in the round they steer"
    SCORE = "the same, from the record that is scored"
    EVALUATE = "the same, from the evaluation beacon"

    def limit(self, spec: RunSpec) -> int | None:
        """Its blocks."""
        clock = spec.clock
        steer = clock.reveal + spec.gauntlet.score_wait
        return {
            Bound.SEAL: clock.deadline,
            Bound.NEXT: clock.deadline,
            Bound.PAYLOAD: clock.min_blocks + clock.reveal + 1,
            Bound.REVEAL: clock.reveal,
            Bound.GRACE: clock.grace,
            Bound.STEER: steer,
            Bound.SCORE: clock.min_blocks + steer,
            Bound.EVALUATE: clock.min_blocks + steer + 1 - clock.evaluate,
        }.get(self)


class Times(Enum):
    """How often, or for how long."""

    ONCE = 1
    TWICE = 2
    TEN_BLOCKS = 10
    TWENTY_BLOCKS = 20


ABSENT = None
"""No entry in the record: the submission was not seen in time."""

SLOW_BLOCKS = 1.5
"""A slow answer; less than the deadline of a small request."""


@dataclass(frozen=True, slots=True)
class Place:
    """A step that can fail: who asks for what (as a `Fault` says it), and how it can fail.

    `bound` is what it is held up against, `miss` what miner-0 has in the record if that is too long, by kind of fault
    (empty: nobody's submission depends on it). `rarely`: it is tried again after 1, 2, 4 … blocks. `ages`: it holds up
    a seal that is signed, which nobody answers any more once it is too old. `also` has to happen for it to come to this
    step.
    """

    name: str
    who: str
    operation: str
    key: str
    kinds: tuple[Kind, ...]
    bound: Bound
    owner: str = "*"
    start: int = 0
    from_block: int = 0
    rarely: bool = False
    ages: bool = False
    also: tuple[Fault, ...] = ()
    miss: Mapping[Kind, str | None] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    def fault(self, kind: Kind, times: Times) -> Fault:
        """What goes wrong."""
        limited = times in (Times.ONCE, Times.TWICE)
        # A long wait ends between two blocks, beyond the fault's last one: the next request is answered at once.
        seconds = (SLOW_BLOCKS if limited else times.value + 0.5) * BLOCK if kind == "slow" else 0.0
        return Fault(
            kind,
            self.operation,
            self.key,
            who=self.who,
            owner=self.owner,
            count=times.value if limited else None,
            blocks=None if limited else times.value,
            seconds=seconds,
            start=self.start,
            from_block=self.from_block,
        )

    def held_up(self, kind: Kind, times: Times) -> tuple[int, int]:
        """n, the blocks that the step is held up for: at least and at most."""
        count = times.value
        if times in (Times.ONCE, Times.TWICE):
            if kind == "slow":
                return 1, 2 * count
            # Done again at the next block; where it was looked at twice in a block, in the same.
            return 0, 2**count - 1 if self.rarely else count
        if kind == "lost" and self.bound is Bound.LEADER:
            return 0, count + 1
        if kind == "lost" and kind not in self.miss:  # it has happened: nobody but who asked waits for the answer
            return 0, 0
        # A small request that is not answered within its deadline, of 2.5 blocks, is made again at the next block.
        return count, 2 * count if self.rarely else count + 3


_NAMED = {"seal": "-*", "rec": "-*", "bin": "-*", "sco": "-*", "heads": ".*", "made": ".*"}
"""What is named by round and digest, and what by round and parent."""


def _key(round_: int, ending: str) -> str:
    return f"*/{round_:08d}{_NAMED.get(ending, '')}.{ending}"


READ: tuple[Kind, ...] = ("error", "slow", "damaged", "missing")
WRITE: tuple[Kind, ...] = ("error", "slow", "lost")
ASK: tuple[Kind, ...] = ("error", "slow")
GONE: Mapping[Kind, str | None] = {"error": ABSENT, "slow": ABSENT, "damaged": ABSENT, "missing": ABSENT}
NO_KEY: Mapping[Kind, str | None] = dict.fromkeys(READ, "key_missing")
NO_SUB: Mapping[Kind, str | None] = dict.fromkeys(READ, "unavailable")

SEALED, RECORDED = MIN_BLOCKS, MIN_BLOCKS + 1
"""The block of the first seal of the run without faults, and the one by which everybody sees the record."""

_ANSWERED = "*/submissions/00000000.seal"
"""The seal that a miner answers, beside its key."""

_SEAL_LOST = Fault("lost", "store.put_if_absent", _key(0, "heads"), who=LEADER, count=1)
_RECORD_LOST = Fault("lost", "store.put_if_absent", _key(0, "made"), who=LEADER, count=1)
_ANSWER_LOST = Fault("lost", "store.put_if_absent", _ANSWERED, who=MINER, count=1)


def _leader(name: str, operation: str, key: str, kinds: tuple[Kind, ...], **more: object) -> Place:
    return Place(name, LEADER, operation, key, kinds, Bound.LEADER, **more)  # type: ignore[arg-type]


def _answering(name: str, operation: str, key: str, kinds: tuple[Kind, ...], **more: object) -> Place:
    return Place(name, MINER, operation, key, kinds, Bound.REVEAL, miss=NO_KEY, **more)  # type: ignore[arg-type]


INSTRUCTIONS = (
    Place("TRAIN puts the head", MINER, "store.put", _key(0, "head"), ASK, Bound.SEAL, miss=GONE),
    Place(  # it is there in time; but the payload is not put until the miner knows
        "TRAIN puts the head and then the payload", MINER, "store.put", _key(0, "head"), ("lost",), Bound.PAYLOAD,
        miss={"lost": "unavailable"},
    ),
    Place("TRAIN puts the payload", MINER, "store.put", _key(0, "sub"), ("error", "lost"), Bound.PAYLOAD, miss=NO_SUB),
    _answering("PUBLISH_KEY puts the seal it answers", "store.put_if_absent", _ANSWERED, WRITE),
    _answering("PUBLISH_KEY reads it back", "store.get", _ANSWERED, READ, also=(_ANSWER_LOST,)),
    _answering("PUBLISH_KEY puts the key", "store.put", _key(0, "key"), WRITE),
    _leader("PUBLISH_SEAL asks who is there", "chain.snapshot", "", ASK, from_block=1),
    _leader("PUBLISH_SEAL tries whether its bucket takes a write", "store.put", "*/writable", WRITE),
    _leader("PUBLISH_SEAL saves what it signs", "store.put_if_absent", _key(0, "heads"), WRITE, ages=True),
    _leader(
        "PUBLISH_SEAL reads it back", "store.get", _key(0, "heads"), READ, from_block=SEALED, ages=True,
        also=(_SEAL_LOST,),
    ),
    _leader("PUBLISH_SEAL puts the seal", "store.put", _key(0, "seal"), WRITE, ages=True),
    _leader("PUBLISH_RECORD asks for its anchor", "chain.anchors", "0", ASK, from_block=RECORDED),
    _leader("PUBLISH_RECORD looks for its own record", "store.get", _key(0, "made"), ASK),
    _leader("PUBLISH_RECORD reads it back", "store.get", _key(0, "made"), READ, also=(_RECORD_LOST,)),
    _leader("PUBLISH_RECORD asks for a block", "chain.block", "*", ASK, from_block=RECORDED),
    _leader("PUBLISH_RECORD asks for a beacon", "chain.beacon", "possess/1", ASK),
    _leader("PUBLISH_RECORD looks for amendments", "store.list", "*amendments*", ASK),
    _leader("PUBLISH_RECORD puts a checkpoint", "store.put", "*.safetensors", WRITE),
    _leader("PUBLISH_RECORD puts its manifest", "store.put", "*manifest.json", WRITE),
    _leader("PUBLISH_RECORD puts the bundle", "store.put", _key(0, "bin"), WRITE),
    _leader("PUBLISH_RECORD saves what it signs", "store.put_if_absent", _key(0, "made"), WRITE),
    _leader("PUBLISH_RECORD puts the record", "store.put", _key(0, "rec"), WRITE),
    _leader("PUBLISH_RECORD anchors it", "chain.commit", "anchor/0", WRITE),
    Place("APPLY at a validator puts scores", VALIDATOR, "store.put_if_absent", _key(0, "sco"), WRITE, Bound.EVALUATE),
    Place("APPLY at a validator draws its windows", VALIDATOR, "chain.beacon", "evaluate/0", ASK, Bound.EVALUATE),
    Place("APPLY at a validator asks whether it is late", VALIDATOR, "chain.anchors", "1", ASK, Bound.SCORE),
    Place("APPLY at a validator: who is there", VALIDATOR, "chain.snapshot", "", ASK, Bound.SCORE, from_block=RECORDED),
)  # fmt: skip

LOOKS = (
    Place(
        "a leader looks at a head", LEADER, "store.get_range", _key(0, "head"), (*READ, "truncated"), Bound.SEAL,
        owner=MINER, miss={**GONE, "damaged": "signature", "truncated": "truncated"},
    ),
    *(
        place
        for bound in (Bound.REVEAL, Bound.GRACE)
        for place in (
            Place(
                f"a leader looks at a key ({bound.name})", LEADER, "store.get", _key(0, "key"), (*READ, "truncated"),
                bound, owner=MINER, miss={
                    "error": "unavailable", "slow": "unavailable", "missing": "key_missing", "damaged": "key_signature",
                    "truncated": "key_truncated",
                },
            ),
            Place(
                f"a leader fetches a payload ({bound.name})", LEADER, "store.get", _key(0, "sub"),
                (*READ, "truncated"), bound, owner=MINER, rarely=True, miss={
                    "error": "unavailable", "slow": "unavailable", "missing": "unavailable",
                    "damaged": "ciphertext_digest", "truncated": "ciphertext_size",
                },
            ),
        )
    ),
    Place("a leader looks at scores", LEADER, "store.get", _key(0, "sco"), READ, Bound.STEER),
    _leader("a leader waits for a block", "chain.next_block", "", ASK, from_block=SEALED),
    _answering("a miner looks for seals", "store.list", "*/seals/*", (*ASK, "missing"), from_block=SEALED),
    _answering("a miner looks at the seal", "store.get", _key(0, "seal"), READ, from_block=SEALED),
    _answering("a miner asks where the leader is", "chain.snapshot", "", ASK, from_block=SEALED),
)  # fmt: skip


def _reading(who: str, bound: Bound, begin: int) -> Iterator[Place]:
    """What it takes to read a record and all that it names, from the block `begin` on."""
    role = who.partition("-")[0] if who != FOLLOWER else "follower"
    for what, operation, key, kinds in (
        ("the record", "store.get", _key(0, "rec"), READ),
        ("its seal", "store.get", _key(0, "seal"), READ),
        ("its bundle", "store.get", _key(0, "bin"), READ),
        ("anchors", "chain.anchors", "0", ASK),
        ("its blocks", "chain.block", "*", ASK),
        ("its beacon", "chain.beacon", "possess/1", ASK),
        ("a block to come", "chain.next_block", "", ASK),
    ):
        if who == FOLLOWER and operation in ("chain.block", "chain.beacon", "chain.next_block"):
            continue  # what is the same for all is shown for others
        # The block is waited for from the one before.
        at = begin - (operation == "chain.next_block")
        miss, also = (GONE, (_KEY_LATE,)) if who == MINER else ({}, ())
        yield Place(f"a {role} reads {what}", who, operation, key, kinds, bound, from_block=at, miss=miss, also=also)


_KEY_LATE = Fault("slow", "store.put", _key(0, "key"), who="miner-1", count=1, seconds=SLOW_BLOCKS * BLOCK)
"""Puts off the record of round 0 until miner-0 has shown its own key and has nothing to do but to follow."""

FOLLOWING = (
    *_reading(MINER, Bound.NEXT, RECORDED + 1),
    *_reading(VALIDATOR, Bound.SCORE, RECORDED),
)

BYSTANDING = (
    *_reading(FOLLOWER, Bound.NOBODY, RECORDED),
    *(
        Place(f"a follower mirrors the {what}", FOLLOWER, "store.put", _key(0, ending), WRITE, Bound.NOBODY)
        for what, ending in (("bundle", "bin"), ("seal", "seal"), ("record", "rec"))
    ),
)
"""At an operator who is not in turn: the others must not even notice, but that it votes later."""

JOINING = tuple(
    Place(f"{who} {what} to join", who, operation, key, kinds, bound, miss=miss)
    for who, bound, miss in ((MINER, Bound.SEAL, {**GONE, "lost": ABSENT}), (LEADER, Bound.LEADER, {}))
    for what, operation, key, kinds in (
        ("asks which chain it is", "chain.origin", "", ASK),
        ("registers", "chain.register", "", WRITE),
        ("asks who is there", "chain.snapshot", "", ASK),
        ("asks for the head", "chain.head", "", ASK),
        ("asks for a block", "chain.block", "*", ASK),
        ("asks for a beacon", "chain.beacon", "assign/0", ASK),
    )
)


NEWCOMER, ARRIVAL = "miner-1", 2
"""Joins once round 2 is open, from the checkpoint that the record of round 1 pins; a round it is not expected in is
sealed at its min block."""

COMING = tuple(
    Place(f"a newcomer reads {what}", NEWCOMER, "store.get", key, READ, Bound.NOBODY)
    for what, key in (("a record", _key(0, "rec")), ("a manifest", "*manifest.json"), ("a checkpoint", "*.safetensors"))
)

SCREENING = tuple(
    Place(f"a validator reads {what} without a seat", VALIDATOR, operation, _key(LAST, ending), READ, Bound.NOBODY)
    for what, operation, ending in (("a key", "store.get", "key"), ("a payload", "store.get", "sub"))
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run to be played, and what must come of it."""

    place: Place
    kind: Kind
    times: Times
    setting: Setting

    def __str__(self) -> str:
        return f"{self.place}-{self.kind}-{self.times.name.lower()}-{self.setting.name}"

    @property
    def fault(self) -> Fault:
        """What goes wrong."""
        return self.place.fault(self.kind, self.times)

    @property
    def between(self) -> bool:
        """Whether it adds little to others of its place: twice lies between once and ten blocks; of what is long and
        waited out all the same one kind stands for all, whose own ways show where they happen once or cost a round."""
        patient = self.setting in (PATIENT, PATIENT_STRANGER) and not self.place.ages
        long = patient or (self.times is Times.TEN_BLOCKS and self.place.bound in LONG)
        return self.times is Times.TWICE or (long and self.kind != self.place.kinds[0])

    @property
    def rounds(self) -> int:
        """How many are played: a last one only where somebody may have lost one, and has to be back in it."""
        waited_for = self.place.bound in (Bound.LEADER, Bound.NOBODY) or self.setting in (PATIENT, PATIENT_STRANGER)
        return ROUNDS - 1 if self.times is Times.ONCE or (waited_for and self.place.bound not in LONG) else ROUNDS

    def costs(self, spec: RunSpec) -> bool:
        """Whether the step is held up beyond the limit of its phase: n ≥ L."""
        least, most = self.place.held_up(self.kind, self.times)
        limit = self.place.bound.limit(spec)
        if limit is None or most < limit:
            return False
        assert least >= limit, f"{self} stands on the edge: {least} to {most} blocks of {limit}"
        return True

    def misses(self, spec: RunSpec) -> dict[int, str | None]:
        """miner-0's reason by round; everybody else is accepted in every round."""
        if not self.place.miss or not self.costs(spec):
            return {}
        return {int(self.place.bound is Bound.NEXT): self.place.miss[self.kind]}

    def extra_blocks(self, spec: RunSpec) -> int:
        """How much longer the run may take."""
        _, most = self.place.held_up(self.kind, self.times)
        limit = self.place.bound.limit(spec)
        return (most if limit is None else min(most, limit)) + 2


LONG = (Bound.SCORE, Bound.EVALUATE, Bound.PAYLOAD)
"""What ten blocks do not suffice to pass."""

AGEING = tuple(place for place in INSTRUCTIONS if place.ages)


def cells() -> Iterator[Cell]:
    """All of them."""
    for place in (*INSTRUCTIONS, *LOOKS, *FOLLOWING, *BYSTANDING, *JOINING):
        hasty, patient = HASTY, PATIENT
        if place.bound is Bound.GRACE:
            hasty, patient = HASTY_STRANGER, PATIENT_STRANGER
        if place.who == FOLLOWER:
            hasty, patient = HASTY_PAIR, HASTY_PAIR
        long = Times.TWENTY_BLOCKS if place.bound in LONG else Times.TEN_BLOCKS
        for kind in place.kinds:
            yield Cell(place, kind, Times.ONCE, hasty)
            yield Cell(place, kind, Times.TWICE, hasty)
            yield Cell(place, kind, Times.TEN_BLOCKS, patient if place.ages else hasty)
            if patient is not hasty and place.bound is not Bound.LEADER:
                yield Cell(place, kind, long, patient)
            if long is not Times.TEN_BLOCKS:
                yield Cell(place, kind, long, hasty)
