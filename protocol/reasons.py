"""Every reason a submission is not applied for, once: its name, who can know it, and a sentence for a person.

Who can know a reason decides what it counts for. What the head shows is recomputed by everybody who judges a record.
What key and payload show decides seats and attendance, because all of it can be had by whoever reads the peer's bucket
in time. What only the leader watched is taken on its word, and keeps a submission out of the order of seats. A decision
says nothing against the submission. A judgement is a validator's, and stands in score files, never in a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ReasonClass(Enum):
    """Where a reason comes from."""

    HEAD = "head"
    PAYLOAD = "payload"
    LEADER_WORD = "leader's word"
    DECISION = "decision"
    JUDGEMENT = "judgement"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: its stable name in records, reports and metrics, its class, and what is wrong in a sentence."""

    slug: str
    kind: ReasonClass
    sentence: str


KEY_MISSING = "key_missing"
KEY_SEAL = "key_seal"
UNAVAILABLE = "unavailable"
LATE = "late"
NOT_SELECTED = "not_selected"
NULL_ROUND = "null_round"
NOT_ORIGINAL = "not_original"
CLONE = "clone"
COPY = "copy"
MIXTURE = "mixture"
UNORIGINAL = (CLONE, COPY, MIXTURE)
"""Judgements that follow from what an update has in common with others."""
LOSS_NOT_FINITE = "loss_not_finite"
NO_ASSIGNED_WINDOWS = "no_assigned_windows"

_OBJECT = {
    "truncated": "The object ends before it is whole.",
    "trailing": "Bytes follow the end of the object.",
    "magic": "The object does not begin with MSTR.",
    "format": "The envelope is of a format that this protocol does not have.",
    "type": "The object is of another type than its place asks for.",
    "reserved": "The reserved bytes of the prefix are not zero.",
    "body_size": "The prefix announces a body of more than 2^26 bytes.",
    "field_order": "The tags of the fields do not ascend.",
    "field_size": "A field does not have the length of its tag.",
    "missing_field": "A field that must be there is not.",
    "unknown_field": "A critical field has a tag that this protocol does not have.",
    "wrong_run": "The object is of another run.",
    "signature": "The object is not signed by the hotkey it names.",
}
_HEAD = {
    "head_size": "The head has more than 4096 bytes.",
    "foreign_header": "The head is signed by another than the owner of the bucket it lies in.",
    "wrong_round": "The head is of another round.",
    "wrong_base": "The work began from another round's θ than the opening says.",
    "wrong_layout": "The head is of another model.",
    "payload_size": "The announced payload is larger than the layout allows.",
    "windows_range": "The number of windows is not between 1 and what a round trains or a slot has.",
    "tokens": "The number of tokens is not that of the windows.",
    "uid_range": "The claimed slot is not one of the run's.",
    "data_digest": "The windows are not those assigned to the claimed slot.",
    "possession": "The peer did not show that it holds θ of the base round.",
}
_PAYLOAD = {
    KEY_MISSING: "The payload's key did not come in time.",
    UNAVAILABLE: "The payload could not be read in time.",
    LATE: "Key or payload did not come in time; a later record may yet take the work in.",
    KEY_SEAL: "The key answers another seal than the record names, or none.",
    "key_round": "The key object is of another round.",
    "key_hotkey": "The key object is by another peer.",
    "ciphertext_size": "The ciphertext is not as long as the head says.",
    "ciphertext_digest": "The ciphertext is not the one the head commits to.",
    "key_mismatch": "The key is not the one the head commits to.",
    "payload_auth": "The payload was encrypted for another peer, round or run.",
    "codec_version": "The payload is of a codec that this protocol does not have.",
    "frame_truncated": "The payload ends before its last frame.",
    "frame_length": "A frame announces a length that the layout does not allow.",
    "frame_zstd": "Scales and gaps of a frame are not exactly one plain zstd frame with its content size.",
    "frame_gaps": "The gaps do not give every tile its number of entries.",
    "index_range": "An index lies outside its tile.",
    "code_padding": "The unused bits of the last byte of codes are not zero.",
    "scale_zero": "A value has a code although its scale is 0.",
    "frame_trailing": "Bytes follow the last frame.",
}
_LEADER_WORD = {
    "unregistered": "The hotkey has no slot on the chain.",
    "uid_mismatch": "The hotkey holds another slot than it claims.",
}
_DECISION = {
    NOT_SELECTED: "Seats went to others before it was needed; nothing is said of its payload.",
    NULL_ROUND: "It is valid, but too few were, so that nothing was applied.",
    NOT_ORIGINAL: "It has sent others' work of late: it has no seat until some of it is found to be its own.",
}
_JUDGEMENT = {
    CLONE: "The update is that of another peer of the round, which takes precedence: its μ is larger, or by lot.",
    COPY: "The update is one that another peer made in the round before.",
    MIXTURE: "Its updates are, round after round, mixtures of what others made in the round before.",
    LOSS_NOT_FINITE: "The loss is no number any more after a small step along the update.",
    NO_ASSIGNED_WINDOWS: "The submission declares no data, so that nothing shows that it was computed.",
}


def _table() -> dict[str, Reason]:
    key = {f"key_{slug}": f"The key object: {sentence[0].lower()}{sentence[1:]}" for slug, sentence in _OBJECT.items()}
    classes = {
        ReasonClass.HEAD: _OBJECT | _HEAD,
        ReasonClass.PAYLOAD: _PAYLOAD | key,
        ReasonClass.LEADER_WORD: _LEADER_WORD,
        ReasonClass.DECISION: _DECISION,
    }
    return {slug: Reason(slug, kind, text) for kind, texts in classes.items() for slug, text in texts.items()}


REASONS: Mapping[str, Reason] = _table()
"""Every reason by its name; a record that gives another one is not valid."""

JUDGEMENTS: Mapping[str, Reason] = {
    slug: Reason(slug, ReasonClass.JUDGEMENT, sentence) for slug, sentence in _JUDGEMENT.items()
}
"""Why a validator pays nothing for a submission with which nothing else is wrong."""


def sentence_of(slug: str) -> str:
    """What a reason of a record or of a score file means; one of another release is its own name."""
    known = REASONS.get(slug) or JUDGEMENTS.get(slug)
    return known.sentence if known else slug


_BY_CLASS = {kind: frozenset(r.slug for r in REASONS.values() if r.kind is kind) for kind in ReasonClass}

HEAD_REASONS = _BY_CLASS[ReasonClass.HEAD]
"""Recomputed from the head by everybody who judges a record."""

UNSIGNED = frozenset(_OBJECT) | {"head_size"}
"""What is wrong with bytes that nobody signed: they may not be the peer's own but damaged on the way."""

PAYLOAD_REASONS = _BY_CLASS[ReasonClass.PAYLOAD]
"""What was wrong with key or payload, or that they were not there in time: the peer keeps its place in the order of
seats and gets none, counts as missing, and stands behind others of its kind for some rounds."""

NOT_IN_TIME = frozenset((KEY_MISSING, UNAVAILABLE, LATE))
"""Key or payload was not there in time: the first two where a run takes no late work, the third where it does."""

LEADERS_WORD = _BY_CLASS[ReasonClass.LEADER_WORD] | NOT_IN_TIME
"""Nobody who was not watching can check these: three of them are of the payload's class, for they decide its seat."""

DECISIONS = _BY_CLASS[ReasonClass.DECISION]
"""Nothing is wrong with the submission."""
