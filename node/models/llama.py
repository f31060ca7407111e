"""The model being trained, so that training, scoring and replay share one definition of the loss.

A Llama-family decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases (Touvron et
al., arXiv 2302.13971 and 2307.09288). Weights carry the names, and mean the same, as in Hugging Face's
`LlamaForCausalLM`. Blocks are plain modules with plain calls, so that a sharding wrapper can be put around
each.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muster.node.models.language_model import LanguageModel
from muster.protocol.spec import ModelSpec

_RESIDUAL_WRITERS = ("o_proj.weight", "down_proj.weight")


def _matrix(rows: int, columns: int) -> nn.Linear:
    """A bias-free projection whose weights are left unset: genesis or a checkpoint fills them."""
    linear = nn.Linear(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(torch.empty(rows, columns))
    return linear


def _embedding(rows: int, columns: int) -> nn.Embedding:
    """A table of token vectors whose weights are left unset."""
    # Given weights are not initialised; to initialise on "meta" would import torch's compiler, for over a second.
    return nn.Embedding(rows, columns, _weight=torch.empty(rows, columns))


class RMSNorm(nn.Module):
    """x ÷ √(mean(x²) + ε), computed in fp32, times a learned gain (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.hidden))
        self.eps = spec.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x` (…, hidden); the result has the dtype of `x`."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rope_tables(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of rotary positions 0 … length−1, fp32 (length, 1, head_dim).

    Pair j of a head is entries j and j + head_dim/2 and turns by position · θ^(−2j/head_dim) (Su et al.,
    arXiv 2104.09864, in the half-split order of Hugging Face's checkpoints). The sines of the first half are
    negated, so that `rotate` needs no other sign.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, 1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).unsqueeze(1), torch.cat((-sin, sin), -1).unsqueeze(1)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn `x` (batch, length, heads, head_dim) by `tables`, in fp32; the result has the dtype of `x`."""
    cos, sin = tables
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention: `heads` queries share `kv_heads` keys and values (arXiv 2305.13245)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.group = spec.heads // spec.kv_heads
        self.q_proj = _matrix(spec.heads * spec.head_dim, spec.hidden)
        self.k_proj = _matrix(spec.kv_heads * spec.head_dim, spec.hidden)
        self.v_proj = _matrix(spec.kv_heads * spec.head_dim, spec.hidden)
        self.o_proj = _matrix(spec.hidden, spec.heads * spec.head_dim)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Mix `x` (batch, length, hidden) over earlier positions."""
        split = (*x.shape[:2], -1, self.head_dim)
        query = rotate(self.q_proj(x).view(split), tables)
        key = self._share(rotate(self.k_proj(x).view(split), tables))
        value = self._share(self.v_proj(x).view(split))
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _share(self, x: Tensor) -> Tensor:
        """Repeat each of the kv heads (dimension 2) for the queries of its group.

        The attention call could do it itself (`enable_gqa`), but not in the oldest torch we support.
        """
        return x if self.group == 1 else x.repeat_interleave(self.group, 2)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = _matrix(spec.ffn, spec.hidden)
        self.up_proj = _matrix(spec.ffn, spec.hidden)
        self.down_proj = _matrix(spec.hidden, spec.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of `x` (…, hidden) on its own."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One decoder layer: attention, then the MLP, each normalised before and added to the stream."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec)
        self.self_attn = Attention(spec)
        self.post_attention_layernorm = RMSNorm(spec)
        self.mlp = MLP(spec)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """The residual stream (batch, length, hidden) after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), tables)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Everything below the output head; it exists so that names begin with `model.` as Hugging Face's do."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.embed_tokens = _embedding(spec.vocab, spec.hidden)
        self.layers = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = RMSNorm(spec)

    def forward(self, tokens: Tensor, tables: tuple[Tensor, Tensor], recompute: bool) -> Tensor:
        """The normalised residual stream (batch, length, hidden) of `tokens` (batch, length).

        With `recompute` autograd keeps what goes into each layer, and nothing inside (Chen et al., arXiv 1604.06174).
        """
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            if recompute and torch.is_grad_enabled():
                # No layer draws random numbers, whose state would have to be kept.
                x = checkpoint(layer, x, tables, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, tables)
        out: Tensor = self.norm(x)
        return out


class Llama(LanguageModel):
    """The decoder with its output head."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.model = Decoder(spec)
        self.lm_head = None if spec.tied else _matrix(spec.vocab, spec.hidden)
        self._tables: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def genesis_std(spec: ModelSpec, name: str) -> float:
        """`init_std`; of the two matrices a layer that write to the residual stream `init_std` / √(2·layers).

        That keeps the stream's variance independent of depth (Radford et al., "Language Models are Unsupervised
        Multitask Learners", §2.3).
        """
        return spec.init_std / math.sqrt(2 * spec.layers) if name.endswith(_RESIDUAL_WRITERS) else spec.init_std

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, fp32 (batch, length, vocab), of the token after each of `tokens`, int64 (batch, length)."""
        hidden = self.model(tokens, self._rope(tokens.shape[1], tokens.device), self.recompute)
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(hidden, head.weight).float()

    def block_matrices(self) -> list[nn.Parameter]:
        """Queries, keys, values, outputs and the three of each MLP."""
        return [p for p in self.model.layers.parameters() if p.ndim > 1]

    def _rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rotary tables of a length and device; the last pair is kept, as neither changes in practice."""
        kept = self._tables
        if kept is None or kept[0].shape[0] != length or kept[0].device != device:
            with torch.inference_mode(False):  # else tables made while scoring could not be trained through
                kept = rope_tables(length, self.spec.head_dim, self.spec.rope_theta, device)
            self._tables = kept
        return kept


MODEL = Llama
