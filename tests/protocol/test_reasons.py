"""Each reason stands once, with a class and a sentence, and the protocol page says the same."""

from __future__ import annotations

import re
from pathlib import Path

from malformed_payloads import CODEC_REASONS

from muster.protocol.reasons import (
    DECISIONS,
    HEAD_REASONS,
    KEY_MISSING,
    KEY_SEAL,
    LATE,
    LEADERS_WORD,
    NOT_IN_TIME,
    PAYLOAD_REASONS,
    REASONS,
    UNAVAILABLE,
    ReasonClass,
)
from muster.protocol.wire.record import MAX_REASON

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
ROW = re.compile(r"^\| `([a-z_]+)` \| ([a-z' ]+?)( †)? \| (.+) \|$")


def test_the_page_lists_them_all_and_no_others() -> None:
    """Read by its own rules, not by those of the maker of the page."""
    section = PAGE.read_text(encoding="utf-8").split("## 10. Reasons")[1]
    rows = [match.groups() for match in map(ROW.match, section.splitlines()) if match]
    assert len(rows) == len({slug for slug, *_ in rows}) == len(REASONS) > 50
    for slug, kind, word, sentence in rows:
        reason = REASONS[slug]
        assert (kind, sentence) == (reason.kind.value, reason.sentence)
        assert bool(word) == (slug in LEADERS_WORD)


def test_every_reason_has_one_class_and_a_sentence() -> None:
    assert set(REASONS) == HEAD_REASONS | PAYLOAD_REASONS | LEADERS_WORD | DECISIONS
    assert len(HEAD_REASONS) + len(PAYLOAD_REASONS) + len(DECISIONS) + 2 == len(REASONS)
    for slug, reason in REASONS.items():
        assert reason.slug == slug
        assert len(slug) <= MAX_REASON, "it fits a record"
        assert reason.sentence[0].isupper()
        assert reason.sentence.endswith(".")
    assert len({reason.sentence for reason in REASONS.values()}) == len(REASONS)


def test_what_is_wrong_with_a_key_never_goes_by_the_name_of_a_head() -> None:
    heads = {slug for slug, reason in REASONS.items() if reason.kind is ReasonClass.HEAD}
    assert not heads & PAYLOAD_REASONS
    assert {"key_truncated", "key_signature", "key_wrong_run", "key_unknown_field", KEY_SEAL} <= PAYLOAD_REASONS
    assert CODEC_REASONS <= PAYLOAD_REASONS


def test_what_only_a_watcher_saw() -> None:
    """A key or payload that was not there decides its seat like one that was bad, and yet nobody can check it."""
    assert {KEY_MISSING, UNAVAILABLE, LATE} == NOT_IN_TIME == LEADERS_WORD & PAYLOAD_REASONS
    assert {"unregistered", "uid_mismatch"} == LEADERS_WORD - PAYLOAD_REASONS
    assert not LEADERS_WORD & (HEAD_REASONS | DECISIONS)
