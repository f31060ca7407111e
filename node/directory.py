"""Where everybody's bucket is: the one place that turns a hotkey into a store, and says what it means to have none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from muster.node.pointed import locations, open_committed
from muster.protocol.chain.base import Chain, Peer, Snapshot
from muster.protocol.errors import StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.storage import Buckets, Store

log = logging.getLogger(__name__)


class Directory:
    """The peers of one chain and their buckets.

    Who is not registered, has committed no location, or one that cannot be opened has no store: to every caller that
    is one and the same, a peer whose objects are not to be had now. It may commit another location at any block, so
    nothing is remembered but, one location a hotkey, what was opened and what was complained about last; buckets where
    nobody is any more are let go of.
    """

    def __init__(self, chain: Chain, buckets: Buckets, run_id: bytes = b"") -> None:
        """Of the peers of `chain`; who has not committed its location whole says it in its hello for the run `run_id`.

        b"" is no run's, and then nobody does.
        """
        self._chain = chain
        self._buckets = buckets
        self._run_id = run_id
        self._complained: dict[str, str] = {}
        self._opened_last: dict[str, tuple[str, Store]] = {}

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
            return self._opened(peer.hotkey, peer.location)
        except StorageError as error:
            if self._complained.get(peer.hotkey) != peer.location:
                self._complained[peer.hotkey] = peer.location
                log.warning("peer %s committed a location that cannot be used: %s", peer.hotkey, error)
            return None

    def _opened(self, hotkey: str, committed: str) -> Store:
        """The bucket of who has committed this, the same one for as long as that stands."""
        known = self._opened_last.get(hotkey)
        if known is None or known[0] != committed:
            found = open_committed(self._buckets, committed, self._run_id, public_of(hotkey))
            self._opened_last[hotkey] = committed, found
            self._let_go([] if known is None else [known])
            return found
        return known[1]

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
        """Let go of what was opened, or complained about, of who of a snapshot is not there any more."""
        at = {peer.hotkey: peer.location for peer in snapshot.peers}
        left = [hotkey for hotkey, (place, _) in self._opened_last.items() if at.get(hotkey) != place]
        self._let_go([self._opened_last.pop(hotkey) for hotkey in left])
        self._complained = {hotkey: place for hotkey, place in self._complained.items() if at.get(hotkey) == place}

    def _let_go(self, left: Sequence[tuple[str, Store]]) -> None:
        """Forget the buckets of what was opened, but for those that somebody else is at."""
        if not left:
            return
        used = set[str]().union(*(locations(*known) for known in self._opened_last.values()))
        for location in set[str]().union(*(locations(*known) for known in left)) - used:
            self._buckets.forget(location)
