"""What all must agree on about a family of models: which sizes fit together, and its tensors in consensus order.

A family is chosen by `model.family`. Its entry here is what the protocol needs of it; the module that computes with
those tensors is `muster.node.models.<family>`. Adding one is these two files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.protocol.spec.sections import ModelSpec

Shapes = list[tuple[str, tuple[int, ...]]]
"""Names and shapes of all trained storages, in consensus order."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    `check` raises ValueError where sizes do not fit together. `shapes` gives every trained storage once, whatever
    names it has in the model: a tied output head is the embedding's own.
    """

    check: Callable[[ModelSpec], None]
    shapes: Callable[[ModelSpec], Shapes]


def _check_llama(model: ModelSpec) -> None:
    if model.heads % model.kv_heads:
        raise ValueError("heads must be a multiple of kv_heads")
    if model.head_dim % 2:
        raise ValueError("head_dim must be even (RoPE rotates pairs)")


def _llama_shapes(model: ModelSpec) -> Shapes:
    """Named as Hugging Face's `LlamaForCausalLM` names them."""
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    shapes: Shapes = [("model.embed_tokens.weight", (model.vocab, model.hidden))]
    for i in range(model.layers):
        layer = f"model.layers.{i}"
        shapes += [
            (f"{layer}.input_layernorm.weight", (model.hidden,)),
            (f"{layer}.self_attn.q_proj.weight", (query, model.hidden)),
            (f"{layer}.self_attn.k_proj.weight", (key, model.hidden)),
            (f"{layer}.self_attn.v_proj.weight", (key, model.hidden)),
            (f"{layer}.self_attn.o_proj.weight", (model.hidden, query)),
            (f"{layer}.post_attention_layernorm.weight", (model.hidden,)),
            (f"{layer}.mlp.gate_proj.weight", (model.ffn, model.hidden)),
            (f"{layer}.mlp.up_proj.weight", (model.ffn, model.hidden)),
            (f"{layer}.mlp.down_proj.weight", (model.hidden, model.ffn)),
        ]
    shapes.append(("model.norm.weight", (model.hidden,)))
    if not model.tied:
        shapes.append(("lm_head.weight", (model.vocab, model.hidden)))
    return shapes


FAMILIES: dict[str, Family] = {
    "llama": Family(_check_llama, _llama_shapes),
}
"""Every family by the name it has in a spec."""


def known_family(name: str) -> str:
    """The name of a family that there is.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in FAMILIES:
        raise ValueError(f"there is no such family of models; there are: {', '.join(sorted(FAMILIES))}")
    return name
