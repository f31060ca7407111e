"""Object keys: the same layout on a file system and on S3, one place to read it from.

What a round may have several of is named by round and digest, so that siblings stand beside each other; what a leader
signs once in a round and after a parent, by round and parent.
"""

from __future__ import annotations

import re

_ROUND = re.compile(r"[0-9a-f]+/[a-z]+/(\d{8,})[^0-9]")


def folder(run_id: bytes, what: str) -> str:
    """Prefix of everything of a kind, such as `bundles`; names below it begin with a round, in ascending order."""
    return f"{run_id.hex()}/{what}/"


def round_of(key: str) -> int:
    """The round that the name of an object is of; −1 for one that names none."""
    found = _ROUND.match(key)
    return int(found[1]) if found else -1


def hello(run_id: bytes) -> str:
    """What a participant says of itself."""
    return f"{run_id.hex()}/hello"


def head(run_id: bytes, round_: int) -> str:
    """The head of a peer's submission, which the seal lists."""
    return f"{run_id.hex()}/submissions/{round_:08d}.head"


def payload(run_id: bytes, round_: int) -> str:
    """The ciphertext that a peer's head commits to."""
    return f"{run_id.hex()}/submissions/{round_:08d}.sub"


def key(run_id: bytes, round_: int) -> str:
    """A peer's key, published after the seal."""
    return f"{run_id.hex()}/submissions/{round_:08d}.key"


def answered(run_id: bytes, round_: int) -> str:
    """The seal that a peer's key answers, as it read it."""
    return f"{run_id.hex()}/submissions/{round_:08d}.seal"


def seals(run_id: bytes, round_: int) -> str:
    """Prefix of all seals of a round; there is one, unless its leader lies."""
    return f"{run_id.hex()}/seals/{round_:08d}-"


def seal(run_id: bytes, round_: int, digest: bytes) -> str:
    """The leader's list of what was in when the round closed, by its own digest."""
    return f"{seals(run_id, round_)}{_short(digest)}.seal"


def heads(run_id: bytes, round_: int, parent: bytes) -> str:
    """What a leader signs as the seal after this parent, and the heads it lists; a restarted one goes on there."""
    return f"{run_id.hex()}/seals/{round_:08d}.{_short(parent)}.heads"


def records(run_id: bytes, round_: int) -> str:
    """Prefix of all records of a round."""
    return f"{run_id.hex()}/records/{round_:08d}-"


def record(run_id: bytes, round_: int, digest: bytes) -> str:
    """What the round decided, by its own digest."""
    return f"{records(run_id, round_)}{_short(digest)}.rec"


def made(run_id: bytes, round_: int, parent: bytes) -> str:
    """What a leader signs as the record after this parent, before anybody sees it; a restarted one goes on there."""
    return f"{run_id.hex()}/records/{round_:08d}.{_short(parent)}.made"


def bundle(run_id: bytes, round_: int, digest: bytes) -> str:
    """The accepted submissions with their keys, by the digest of their record."""
    return f"{run_id.hex()}/bundles/{round_:08d}-{_short(digest)}.bin"


def score_files(run_id: bytes, round_: int) -> str:
    """Prefix of all that a validator says of a round; there is one file for each record of it that it judged."""
    return f"{run_id.hex()}/scores/{round_:08d}-"


def scores(run_id: bytes, round_: int, record: bytes) -> str:
    """A validator's signed judgement of a round, by the digest of the record that it judges."""
    return f"{score_files(run_id, round_)}{_short(record)}.sco"


def disputes(run_id: bytes, round_: int) -> str:
    """Prefix of what a validator says of others' score files of a round."""
    return f"{run_id.hex()}/disputes/{round_:08d}-"


def dispute(run_id: bytes, round_: int, file: bytes) -> str:
    """A validator's signed dispute of another's score file of a round, by that file's digest."""
    return f"{disputes(run_id, round_)}{_short(file)}.dis"


def proofs_of_two(run_id: bytes) -> str:
    """Prefix of the proofs that a leader has signed two seals or records where there may be one."""
    return f"{run_id.hex()}/twice/"


def proof_of_two(run_id: bytes, signer: bytes) -> str:
    """The proof that this leader has, by its public key."""
    return f"{proofs_of_two(run_id)}{_short(signer)}.two"


def writable(run_id: bytes) -> str:
    """What a leader writes before it signs, to know that what it signs can be shown."""
    return f"{run_id.hex()}/writable"


def amendments(run_id: bytes) -> str:
    """Prefix under which an aggregator looks for amendments to record."""
    return f"{run_id.hex()}/amendments/"


def amendment(run_id: bytes, number: int) -> str:
    """The amendment with a number, where nothing can be listed: at the run's own place, and in others' buckets."""
    return f"{amendments(run_id)}{number:08d}.amd"


def checkpoint(run_id: bytes, round_: int, name: str) -> str:
    """A file of the checkpoint of θ before the record of `round_`; the manifest is written last."""
    return f"{run_id.hex()}/checkpoints/{round_:08d}/{name}"


MANIFEST = "manifest.json"


def _short(digest: bytes) -> str:
    """What of a digest stands in a name: 8 bytes tell the siblings of a round apart."""
    return digest[:8].hex()
