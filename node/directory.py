"""Where everybody's bucket is: the one place that turns a hotkey into a store, and says what it means to have none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from muster.protocol.chain.base import Chain, Peer, Snapshot
from muster.protocol.errors import StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.storage import Buckets, Store

log = logging.getLogger(__name__)


class Directory:
    """The peers of one chain and their buckets.

    Who is not registered, has committed no location, or one that cannot be opened has no store: to every caller that
    is one and the same, a peer whose objects are not to be had now. It may commit another location at any block, so
    nothing is remembered but what has been complained about last, one location a hotkey, and which buckets are open:
    those where nobody is any more are forgotten.
    """

    def __init__(self, chain: Chain, buckets: Buckets) -> None:
        self._chain = chain
        self._buckets = buckets
        self._complained: dict[str, str] = {}
        self._in_use: set[str] = set()

    async def snapshot(self) -> Snapshot:
        """Everybody registered now.

        Raises:
            ChainError: the chain does not say.
        """
        snapshot = await self._chain.snapshot()
        self._forget(snapshot)
        return snapshot

    async def store_of(self, hotkey: str) -> Store | None:
        """The bucket of a hotkey, as it stands on chain now.

        Raises:
            ChainError: the chain does not say.
        """
        peer = (await self.snapshot()).by_hotkey().get(hotkey)
        return None if peer is None else self.store(peer)

    def store(self, peer: Peer) -> Store | None:
        """The bucket of a peer of a snapshot."""
        if peer.location is None:
            return None
        try:
            store = self._buckets.bucket(peer.location)
            self._in_use.add(peer.location)
            return store
        except StorageError as error:
            if self._complained.get(peer.hotkey) != peer.location:
                self._complained[peer.hotkey] = peer.location
                log.warning("peer %s committed a location that cannot be used: %s", peer.hotkey, error)
            return None

    async def stores_of(self, publics: Sequence[bytes]) -> dict[bytes, Store]:
        """The buckets of these peers, in their order, of those who have one now.

        Raises:
            ChainError: the chain does not say.
        """
        peers = (await self.snapshot()).by_hotkey()
        known = {public: peers.get(hotkey_of(public)) for public in publics}
        found = {public: self.store(peer) for public, peer in known.items() if peer is not None}
        return {public: store for public, store in found.items() if store is not None}

    def stores(self, snapshot: Snapshot) -> dict[bytes, Store]:
        """The buckets of everybody in a snapshot who has one, by public key."""
        self._forget(snapshot)
        found = ((public_of(peer.hotkey), self.store(peer)) for peer in snapshot.peers)
        return {public: store for public, store in found if store is not None}

    def _forget(self, snapshot: Snapshot) -> None:
        """Let go of what was opened, or complained about, where nobody of a snapshot is."""
        places = {peer.location for peer in snapshot.peers if peer.location is not None}
        for left in self._in_use - places:
            self._buckets.forget(left)
        self._in_use &= places
        self._complained = {hotkey: place for hotkey, place in self._complained.items() if place in places}
