"""What a forward pass keeps for its way back, and what it takes in passing: numbers a token, from the model's shape.

h is `hidden`, q is heads · head_dim, f is `ffn`, V is `vocab`. In fp32 autograd keeps of a layer

    its two norms      x, x / rms, and what goes into the products: 3 h each, and one number of 1 / rms each
    attention          queries, keys, values (kv heads repeated for their group) and the mixed values: 4 q; a head's
                       log-sum of weights: 1
    MLP                gate, silu(gate), up and their product: 4 f

and of the head the last norm (3 h + 1) and the log-probabilities (V). With products in bf16 every product has its own
copy of what goes in, of half the size (h for each of q, k, v, gate and up), and its results are half as large. A test
holds all of this equal to what autograd keeps. In passing: the gradients of logits and log-probabilities (2 V), of an
MLP (2 f) or of attention (3 q); without gradients 3 f + 3 h or 4 q + 3 h in a layer, 3 V in the head. Measured for each
shape by itself, where each of them is the largest.
"""

from __future__ import annotations

from muster.protocol.spec import ModelSpec

FLOAT = 4
HALF = 2


def _queries(model: ModelSpec) -> int:
    return model.heads * model.head_dim


def layer_kept(model: ModelSpec, *, bf16: bool) -> int:
    """Bytes a token that autograd keeps of one layer."""
    h, q, f = model.hidden, _queries(model), model.ffn
    norms = 2 * (2 * h + 1)
    if bf16:
        return FLOAT * (norms + model.heads) + HALF * (5 * h + 4 * q + 4 * f)
    return FLOAT * (norms + model.heads + 2 * h + 4 * q + 4 * f)


def head_kept(model: ModelSpec, *, bf16: bool) -> int:
    """Bytes a token that autograd keeps of the last norm and the loss."""
    return FLOAT * (2 * model.hidden + 1 + model.vocab) + (HALF if bf16 else FLOAT) * model.hidden


def kept(model: ModelSpec, *, bf16: bool, recompute: bool) -> int:
    """Bytes a token at the end of a forward pass; with `recompute` what goes into each layer, and one layer whole."""
    layer, head = layer_kept(model, bf16=bf16), head_kept(model, bf16=bf16)
    if recompute:
        return model.layers * FLOAT * model.hidden + max(layer, head)
    return model.layers * layer + head


def returning(model: ModelSpec) -> int:
    """Bytes a token that gradients of activations take at most beside what is kept."""
    return FLOAT * max(2 * model.vocab, 2 * model.ffn, 3 * _queries(model))


def evaluating(model: ModelSpec) -> int:
    """Bytes a token of a forward pass that keeps nothing."""
    h = model.hidden
    return FLOAT * max(3 * model.vocab, 3 * h + 3 * model.ffn, 3 * h + 4 * _queries(model))


def halved_weights(model: ModelSpec, parameters: int) -> int:
    """Bytes of the bf16 copies that products take of all matrices, the head's included, until the way back is done."""
    gains = (2 * model.layers + 1) * model.hidden
    embedding = 0 if model.tied else model.vocab * model.hidden
    return HALF * (parameters - gains - embedding)
