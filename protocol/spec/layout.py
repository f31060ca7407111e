"""Where every parameter lives: the one map from a model's spec to tensors, tiles, frames and byte bounds.

The layout is a pure function of `spec.model`. Its digest stands in every submission header, so two peers that
disagree about a shape find out before a payload is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import rfc8785
from blake3 import blake3

from muster.kernels import Codec, Grid, max_encoded_bytes
from muster.protocol.spec import ModelSpec, Template
from muster.protocol.spec.families import FAMILIES

CODEC_BYTES = 1
"""A payload begins with the version of its codec."""

AEAD_TAG_BYTES = 16
"""ChaCha20-Poly1305 appends a 16-byte tag to a payload (RFC 8439 §2.8)."""


def parameter_shapes(model: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all trained storages in consensus order, as the model's family has them."""
    return FAMILIES[model.family].shapes(model)


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensors in consensus order with their tile grid. A tensor's id is its position in `names`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    grid: Grid
    digest: bytes

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(self.grid.numel)


@lru_cache(maxsize=8)
def layout_of(model: ModelSpec) -> Layout:
    """The layout of a model; its digest is BLAKE3 over the RFC 8785 JSON of [[name, shape], …]."""
    tensors = parameter_shapes(model)
    table = rfc8785.dumps([[name, list(shape)] for name, shape in tensors])
    shapes = tuple(shape for _, shape in tensors)
    return Layout(
        names=tuple(name for name, _ in tensors),
        shapes=shapes,
        grid=Grid(shapes),
        digest=blake3(b"muster/layout/v2" + table).digest(),
    )


def codec_of(spec: Template) -> Codec:
    """What submissions are compressed by under a spec; `codec.count` is how many values each carries."""
    return Codec(layout_of(spec.model).grid, spec.sparse.k, spec.sparse.codec)


@lru_cache(maxsize=8)
def max_payload_bytes(codec: Codec) -> int:
    """The largest sealed payload an honest submission can have; two seconds of arithmetic for the 72b preset, once."""
    return CODEC_BYTES + max_encoded_bytes(codec) + AEAD_TAG_BYTES
