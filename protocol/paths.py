"""Object keys: the same layout on a file system and on S3, one place to read it from."""

from __future__ import annotations


def hello(run_id: bytes) -> str:
    """What a participant says of itself."""
    return f"{run_id.hex()}/hello"


def submission(run_id: bytes, round_: int) -> str:
    """A peer's header and ciphertext."""
    return f"{run_id.hex()}/submissions/{round_:08d}.sub"


def key(run_id: bytes, round_: int) -> str:
    """A peer's key, published after the seal."""
    return f"{run_id.hex()}/submissions/{round_:08d}.key"


def seal(run_id: bytes, round_: int) -> str:
    """The leader's list of what was in when the round closed."""
    return f"{run_id.hex()}/seals/{round_:08d}.seal"


def heads(run_id: bytes, round_: int) -> str:
    """The heads a seal lists, as its leader read them; what a restarted leader goes on from."""
    return f"{run_id.hex()}/seals/{round_:08d}.heads"


def record(run_id: bytes, round_: int) -> str:
    """What the round decided."""
    return f"{run_id.hex()}/records/{round_:08d}.rec"


def bundle(run_id: bytes, round_: int) -> str:
    """The accepted submissions with their keys."""
    return f"{run_id.hex()}/bundles/{round_:08d}.bin"


def scores(run_id: bytes, round_: int) -> str:
    """A validator's signed judgement of a round."""
    return f"{run_id.hex()}/scores/{round_:08d}.sco"


def amendments(run_id: bytes) -> str:
    """Prefix under which an aggregator looks for amendments to record."""
    return f"{run_id.hex()}/amendments/"


def checkpoint(run_id: bytes, round_: int, name: str) -> str:
    """A file of the checkpoint of θ before the record of `round_`; the manifest is written last."""
    return f"{run_id.hex()}/checkpoints/{round_:08d}/{name}"


MANIFEST = "manifest.json"
