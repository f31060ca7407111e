"""Our identities as the SDK wants its signers, so that a secret stays where it is."""

from __future__ import annotations

from typing import Any

import bittensor as bt

from protocol.chain.bittensor.endpoints import refused
from protocol.chain.bittensor.runtime import Runtime
from protocol.identity import Identity

_SR25519 = 1


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


async def submit(runtime: Runtime, call: Any, signer: Any, what: str, *, final: bool = True) -> bt.ExtrinsicResult:
    """Sign a composed call, wait until it is in a (final) block, and return what it did.

    Raises:
        ChainError: the chain refused `what`.
        bt.RpcConnectionError: it is not known whether the chain has it.
    """
    try:
        result = await runtime.submit(call, signer, wait_for_finalization=final)
    except bt.ChainError as error:
        # The SDK returns the chain's refusals; what it raises is a connection that broke under way.
        raise bt.RpcConnectionError(str(error)) from error
    if not result.success:
        raise refused(what, result.error or bt.ChainError(result.message))
    return result
