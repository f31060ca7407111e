"""Models of any size in one family, so that a figure can be drawn over the size."""

from __future__ import annotations

HEAD = 64
AT_30 = 8
"""Heads of the model of 30 million parameters, whose layers are as many."""


def shape(millions: float) -> dict[str, int]:
    """What of the spec's `model` makes one of about so many million parameters; a vocabulary is 16 times the width."""
    heads = max(1, round(AT_30 * (millions / 30) ** (1 / 3)))
    hidden = HEAD * heads
    ffn = 11 * hidden // 4 // 32 * 32
    vocab = 16 * hidden
    layer = 4 * hidden**2 + 3 * hidden * ffn
    layers = max(1, round((millions * 1e6 - vocab * hidden) / layer))
    return {
        "vocab": vocab,
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": HEAD,
        "ffn": ffn,
    }
