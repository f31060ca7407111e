"""Our identities as the SDK wants its signers, so that a secret stays where it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import bittensor as bt

from muster.protocol.chain.bittensor.endpoints import NONCE_TAKEN, refused
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.identity import Identity

log = logging.getLogger(__name__)

_SR25519 = 1

NONCE_PAUSES = (0.0, 1.0, 3.0, 6.0, 12.0)
"""Seconds before each new try when another process of the same hotkey used the nonce: at most two blocks."""


class HotkeySigner:
    """A hotkey that signs extrinsics (what the SDK calls a `Signer`)."""

    crypto_type = _SR25519

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.ss58_address = identity.hotkey
        self.public_key = identity.public

    def sign(self, payload: bytes) -> bytes:
        """Sign an extrinsic's payload."""
        return self._identity.sign(payload)


async def submit(
    runtime: Runtime,
    call: Any,
    signer: Any,
    what: str,
    *,
    final: bool = True,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bt.ExtrinsicResult:
    """Sign a composed call, wait until it is in a (final) block, and return what it did.

    An operator's two processes sign with one hotkey: where the other one was faster with a nonce, the next is taken.

    Raises:
        RateLimited: the other process was faster every time.
        ChainError: the chain refused `what`.
        bt.RpcConnectionError: it is not known whether the chain has it.
    """
    pauses = iter(NONCE_PAUSES)
    while True:
        # The SDK counts on from the nonce it used last, which knows nothing of the other process.
        runtime.raw.clear_nonce_cache_for_account(signer.ss58_address)
        try:
            result = await runtime.submit(call, signer, wait_for_finalization=final)
        except bt.ChainError as error:
            # The SDK returns the chain's refusals; what it raises is a connection that broke under way.
            raise bt.RpcConnectionError(str(error)) from error
        if result.success:
            return result
        refusal = result.error or bt.ChainError(result.message)
        pause = next(pauses, None)
        if refusal.name not in NONCE_TAKEN or pause is None:
            raise refused(what, refusal)
        log.info("%s is signed again with a new nonce: %s", what, refusal.message)
        await sleep(pause)
