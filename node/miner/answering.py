"""The one seal that a miner answers in a round: kept where everybody can read it, before the key goes out.

An instruction may be carried out twice, and by two lives of a miner. The bucket decides which seal is the one, so a
second life answers what the first one did, and whoever gets a key can read what it was shown for.
"""

from __future__ import annotations

from muster.node.ledger.objects import MAX_SEAL_BYTES
from muster.node.ledger.seals import FoundSeal
from muster.protocol import paths, wire
from muster.protocol.errors import ObjectDamaged, ObjectMissing, WireError
from muster.protocol.ledger import Tip
from muster.protocol.storage import Store
from muster.protocol.wire import Seal


async def answer(bucket: Store, tip: Tip, found: FoundSeal) -> bytes:
    """Put a seal beside the key to come, unless one is there; the digest of the one that is answered.

    Raises:
        StorageError: the bucket does not take it, or does not show what is there.
    """
    key = paths.answered(tip.run_id, tip.round)
    if await bucket.put_if_absent(key, found.data):
        return found.digest
    before = await _stored(bucket, tip)
    if before is None:
        raise ObjectMissing(f"the seal answered in round {tip.round} is there and cannot be found")
    if before[0].parent == tip.parent:
        return before[1]
    await bucket.put(key, found.data)  # the round of that seal came after a record that has been taken back
    return found.digest


async def answered(bucket: Store, tip: Tip) -> bytes | None:
    """The digest of the seal that is answered in the open round, None for none so far.

    Raises:
        StorageError: the bucket does not show what is there.
    """
    found = await _stored(bucket, tip)
    return found[1] if found is not None and found[0].parent == tip.parent else None


async def _stored(bucket: Store, tip: Tip) -> tuple[Seal, bytes] | None:
    """The seal that stands beside the round's key, and its digest; whatever record its round came after."""
    try:
        data = await bucket.get(paths.answered(tip.run_id, tip.round), max_bytes=MAX_SEAL_BYTES)
        return wire.decode_seal(data, tip.run_id)
    except ObjectMissing:
        return None
    except WireError as error:
        raise ObjectDamaged(f"the seal answered in round {tip.round} is not readable: {error}") from error
