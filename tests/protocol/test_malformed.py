"""Whatever a peer puts in its bucket ends in a reason with a name, the right one, and in nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from builders import NO_SEAL, identity, peers, round_facts, submission, update
from malformed import MAKERS, Malformed, Work, malformed_submissions

from muster.kernels import SparseUpdate
from muster.protocol import wire
from muster.protocol.errors import WireError
from muster.protocol.reasons import KEY_SEAL, REASONS
from muster.protocol.rules.admission import RoundFacts, admit
from muster.protocol.spec.layout import codec_of
from muster.protocol.wire import PREFIX_BYTES, Type

ALICE = identity("alice")
COUNT = 2000


def judge(facts: RoundFacts, owner: bytes, work: Work, shown: bytes) -> SparseUpdate:
    """A submission whose objects are all at hand; its key must answer no seal."""
    signed = admit(facts, owner, work.head)
    key = wire.decode_key(shown, facts.run_id, facts.opening.round, owner)
    if key.seal != NO_SEAL:
        raise WireError(KEY_SEAL)
    return wire.open_payload(signed.header, work.payload, key.payload_key, codec_of(facts.spec))


def judge_by_parts(facts: RoundFacts, owner: bytes, work: Work, shown: bytes) -> SparseUpdate:
    """A submission as its miner keeps it, head and ciphertext in one."""
    signed, ciphertext = wire.decode_submission(work.head + work.payload, facts.run_id)
    return judge(facts, owner, Work(signed.head, ciphertext), shown)


Reader = Callable[[RoundFacts, bytes, Work, bytes], SparseUpdate]


@pytest.fixture(scope="module")
def cases() -> list[Malformed]:
    """All malformed submissions, made once."""
    facts = round_facts(registered=peers("alice", "bob"))
    return list(malformed_submissions(1, COUNT, facts, ALICE, 0, update(), identity("mallory")))


@pytest.mark.parametrize("read", [judge, judge_by_parts])
def test_an_honest_submission_passes(read: Reader) -> None:
    sent = submission(round_facts(), ALICE, 0)
    assert read(round_facts(), ALICE.public, Work(sent.head, sent.payload), sent.key()).identical(update())


def test_every_malformed_submission_is_rejected_for_its_reason(cases: list[Malformed]) -> None:
    facts = round_facts()
    wrong = []
    for case in cases:
        try:
            judge(facts, ALICE.public, case.work, case.key)
        except WireError as error:
            if error.reason not in case.reasons:
                wrong.append((case.label, error.reason, sorted(case.reasons)))
        else:
            wrong.append((case.label, "accepted", sorted(case.reasons)))
    assert not wrong, Counter(str(one) for one in wrong).most_common(10)


def test_every_class_is_made_and_every_expected_reason_is_a_known_one(cases: list[Malformed]) -> None:
    assert len(cases) == COUNT
    assert {case.label for case in cases} == set(MAKERS)
    assert all(case.reasons and case.reasons <= set(REASONS) for case in cases)


def test_the_same_seed_makes_the_same_cases_but_for_signatures() -> None:
    facts, mallory = round_facts(), identity("mallory")
    first, again, other = (
        [(case.label, len(case.work.payload), case.reasons) for case in malformed_submissions(*args)]
        for args in ((seed, 200, facts, ALICE, 0, update(), mallory) for seed in (5, 5, 6))
    )
    assert first == again != other


def test_no_announced_size_is_believed() -> None:
    """A terabyte of payload and four gigabytes of body are refused from the head alone."""
    facts = round_facts()
    made = malformed_submissions(2, len(MAKERS), facts, ALICE, 0, update(), identity("mallory"))
    by_label = {case.label: case for case in made}
    with pytest.raises(WireError, match="body_size"):
        wire.read_prefix(by_label["declared_body"].work.head[:PREFIX_BYTES], Type.HEAD)
    with pytest.raises(WireError, match="payload_size"):
        judge(facts, ALICE.public, by_label["payload_never_sent"].work, by_label["payload_never_sent"].key)
