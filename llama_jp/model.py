"""Llama 2, written out: token ids in, logits out.

Read config.py for the sizes, then this file from top to bottom: the whole model, one block, attention, rotation, the
MLP, the norm.

The letters in the shapes:

    B batch   T new tokens in this call   S keys visible (cached + new)   C hidden size
    H query heads   K key/value heads   D head size   F MLP size   V vocabulary

Every operation rounds in the same order as transformers' LlamaForCausalLM, so on the CPU the logits are bit-identical.
A comment "rounding" marks each place where a tidier order would give other bits. Without a checkpoint, weights have
PyTorch's default values; weights/demo/train.py trains this model.

    model = Llama.from_pretrained("demo")
    logits = model(ids)  # ids (B, T) -> logits (B, T, V)

See: "Llama 2", arXiv:2307.09288; "LLaMA", arXiv:2302.13971; reference: transformers `models/llama/modeling_llama.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import Cache, LayerCache
from .config import LlamaConfig as LlamaConfig
from .rope import Rope, make_rope

Attention = Callable[..., Tensor]  # (q, k, v, mask) or (q, k, v, mask, positions)
Norm = Callable[[Tensor, Tensor, float], Tensor]


class Llama(nn.Module):
    """The whole model: weights, a configuration, and three functions that can be replaced.

    attention  "sdpa", "eager" or a function like `attend_eager`: (q, k, v, mask) -> weighted sums of the values. One
               with a fifth parameter named `positions` also gets the positions of the S keys: (B or 1, S)
    rope       a function like the result of `plain_rope`: positions -> (cos, sin)
    norm       a function like `rms_norm`: (x, weight, eps) -> x

    A replaced function is saved by its name, so it has to be importable. Everything else is an ordinary module tree.
    The model keeps no state between calls: the caller owns the cache, and cos and sin are computed in each call. A
    loaded model also holds the checkpoint's `generation_config` (the defaults of `generate`) and its `folder`, from
    which `save_pretrained` copies the tokenizer.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        attention: str | Attention = "sdpa",
        rope: Rope | None = None,
        norm: Norm | None = None,
    ):
        super().__init__()
        if isinstance(attention, str):
            if attention not in ATTENTIONS:
                raise ValueError(f"attention is {' or '.join(map(repr, ATTENTIONS))} or a function, not {attention!r}")
            attention = ATTENTIONS[attention]
        norm = norm or rms_norm
        self.config = config
        self.attention_takes_positions = takes_positions(attention)
        self.rope = rope or make_rope(config)
        special = ("bos_token_id", "eos_token_id", "pad_token_id")
        self.generation_config: dict[str, Any] = {name: getattr(config, name) for name in special}
        self.folder: Path | None = None  # of the checkpoint
        pad_id = config.pad_token_id if (config.pad_token_id or 0) < config.vocab_size else None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, pad_id)  # its row has no gradient
        self.layers = nn.ModuleList(Block(config, attention, norm) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self, ids: Tensor, cache: Cache | None = None, *, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Compute the logits of the next token, at every position or, with `last_only`, at the last one.

        Shapes: ids (B, T) int64, mask (B, S) -> logits (B, T, V) or (B, 1, V), in the weights' dtype.
        The arguments and errors are those of `hidden`.
        """
        x = self.hidden(ids, cache, mask=mask)
        return self.lm_head(x[:, -1:] if last_only else x)

    def hidden(self, ids: Tensor, cache: Cache | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Compute the hidden states after the last norm, from which `lm_head` computes the logits.

        Shapes: ids (B, T) int64, mask (B, S) -> (B, T, C), in the weights' dtype.

        With a cache, the T tokens follow the `cache.length` tokens in it; T may differ in every call.
        `mask` covers all S = cache.length + T tokens. 0 is padding; 1, 2, 3 … are the numbers of the documents in a
        row, and True is 1. A token attends to its own document, and positions start at 0 in each. So a left-padded row
        and a packed document have the logits of the same tokens alone. Logits at padding are finite and unused.

        Raises ValueError when the shapes of ids, mask and cache do not fit together.
        """
        if ids.dim() != 2 or ids.shape[1] == 0:
            raise ValueError(
                f"ids have the shape {tuple(ids.shape)}; (batch, tokens) with at least one token is needed"
            )
        B, T = ids.shape
        if cache is not None:
            cache.reserve(B, T)
        S = T if cache is None else cache.length + T
        if mask is not None and mask.shape != (B, S):
            raise ValueError(f"the mask covers all visible tokens, so its shape is {(B, S)}, not {tuple(mask.shape)}")

        x = self.embed_tokens(ids)  # (B, T, C)
        positions, visible = positions_and_mask(mask, T, S, x.device)
        cos, sin = self.rope(positions)  # (B or 1, T, D)
        rotation = cos.to(x.dtype), sin.to(x.dtype)  # rounding: computed in float32, then cast
        of_keys = [positions_and_mask(mask, S, S, x.device)[0]] if self.attention_takes_positions else []
        packed = {"packed": True} if cache is None and has_documents(mask) else {}

        for i, layer in enumerate(self.layers):
            x = layer(x, rotation, visible, None if cache is None else cache.layer(i), *of_keys, **packed)
        if cache is not None:
            cache.length = S
        return self.norm(x)

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> Cache:
        """Make an empty cache for rows of up to `max_length` tokens (default: max_position_embeddings)."""
        c, weight = self.config, self.embed_tokens.weight
        max_length = c.max_position_embeddings if max_length is None else max_length
        return Cache(
            len(self.layers), batch_size, c.num_key_value_heads, max_length, c.head_dim, weight.dtype, weight.device
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "demo",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        attention: str | Attention = "sdpa",
        rope: Rope | None = None,
        norm: Norm | None = None,
        adapter: str | Path | None = None,
        trust_parts: bool = False,
        missing: str = "refuse",
    ) -> Llama:
        """Load a checkpoint: a folder, a hub repository or a short name. See `checkpoint.load.load_model`."""
        from .checkpoint.load import load_model

        changes = attention, rope, norm, adapter, trust_parts, missing
        return load_model(source, dtype, device, revision, *changes, model_class=cls)

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
        """Write a folder from which exactly this model loads, or refuse. See `checkpoint.save.save_model`."""
        from .checkpoint.save import save_model

        save_model(self, folder, max_shard_size)


def positions_and_mask(mask: Tensor | None, T: int, S: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Position ids and the attention mask of the last T of S tokens.

    Shapes: mask (B, S) or None -> positions (B or 1, T) int64, visible (B or 1, 1, T, S) bool or None.

    Query i, at index S - T + i, sees key j when j <= S - T + i and j is a token of the same document. The position of
    a token is the number of visible keys before it. A padding query sees the tokens before it and itself: with no
    visible key its output would be NaN, and a NaN reaches the other tokens as 0 * NaN.

    `visible` is None in the plain causal case, which fused attention handles itself. rounding: the condition for that
    case is transformers' (`masking_utils._ignore_causal_mask_sdpa`), since kernels with and without a mask may round
    differently. It depends on the mask's values, so a compiled model always takes the mask.
    """
    index = torch.arange(S, device=device)
    queries = index[S - T :]
    if mask is not None and not torch.compiler.is_compiling() and bool((mask.bool() & (mask == mask[:, :1])).all()):
        mask = None  # every row is one document without padding
    if mask is None and T in (1, S):
        return queries[None], None
    visible = index <= queries[:, None]  # (T, S)
    if mask is None:
        return queries[None], visible[None, None]

    keys, own = mask.to(device)[:, None, :], mask.to(device)[:, S - T :, None]  # (B, 1, S), (B, T, 1)
    visible = visible & (keys != 0) & ((keys == own) | (own == 0))  # (B, T, S)
    positions = (visible.sum(-1) - 1).clamp(min=0)  # (B, T)
    return positions, (visible | (index == queries[:, None]))[:, None]


def has_documents(mask: Tensor | None) -> bool:
    """Whether a row of the mask (B, S) holds several documents. False in compiled code, which rounds differently."""
    return mask is not None and not torch.compiler.is_compiling() and bool((mask > 1).any())


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + MLP(norm(x)); x is the residual stream."""

    def __init__(self, config: LlamaConfig, attention: Attention, norm: Norm):
        super().__init__()
        self.self_attn = SelfAttention(config, attention)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: LayerCache | None,
        *positions: Tensor,
        packed: bool = False,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, visible, cache, *positions, packed=packed)
        return x + self.mlp(self.post_attention_layernorm(x))


class SelfAttention(nn.Module):
    """Mix the values (v) of visible tokens, weighted by how well their keys (k) match the token's query (q).

    In grouped-query attention, H / K consecutive query heads share one key/value head.
    """

    def __init__(self, config: LlamaConfig, attention: Attention):
        super().__init__()
        C, H, K, D = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_dim = D
        self.attend = attention
        self.q_proj = nn.Linear(C, H * D, bias=config.attention_bias)
        self.k_proj = nn.Linear(C, K * D, bias=config.attention_bias)
        self.v_proj = nn.Linear(C, K * D, bias=config.attention_bias)
        self.o_proj = nn.Linear(H * D, C, bias=config.attention_bias)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        visible: Tensor | None,
        cache: LayerCache | None,
        *positions: Tensor,
        packed: bool = False,
    ) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(heads).transpose(1, 2)  # (B, K, T, D)
        v = self.v_proj(x).view(heads).transpose(1, 2)  # (B, K, T, D)
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, K, S, D)
        elif not packed:
            # rounding: the reference has a cache by default, which holds keys and values contiguously, and none for
            # packed rows. Another memory layout may change the last bit of a product or of a gradient.
            k, v = k.contiguous(), v.contiguous()
        mixed = self.attend(q, k, v, visible, *positions)  # (B, H, T, D)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, C)


def attend_eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, written out: softmax(q kᵀ / √D + mask) v.

    Shapes: q (B, H, T, D), k and v (B, K, S, D), mask (B or 1, 1, T, S) bool -> (B, H, T, D).
    The mask is True where a query sees a key. Without a mask, query i sees keys 0 … S - T + i.
    See: "Attention Is All You Need", 3.2.1; grouped heads, arXiv:2305.13245; reference: `eager_attention_forward`.
    """
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    bias = torch.where(mask, zero, torch.finfo(q.dtype).min)  # softmax turns the lowest score into 0

    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])  # (B, H, S, D)
    # rounding: scale after the product, in the weights' dtype; only the softmax runs in float32
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + bias  # (B, H, T, S)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v  # (B, H, T, D)


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same attention by PyTorch's fused kernel, which never writes the scores to memory.

    Without a mask, T is 1 or S: the fused kernel aligns its causal mask to the first key, not to the last.
    rounding: transformers shares key/value heads in three ways, which round differently; so does this function.
    Reference: `integrations/sdpa_attention.py`.
    """
    (B, H, T, D), K = q.shape, k.shape[1]
    grouped = False
    if H != K:
        grouped = mask is None and D <= 256
        if not grouped and T == 1:
            q = q.reshape(B, K, H // K, D)  # the heads of a group become the queries of one head
        elif not grouped:
            k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, S, D)
    causal = mask is None and T > 1
    mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=D**-0.5, enable_gqa=grouped)
    return mixed.reshape(B, H, T, D)


ATTENTIONS: dict[str, Attention] = {"sdpa": attend_sdpa, "eager": attend_eager}


def takes_positions(attention: Attention) -> bool:
    """Whether an attention function has a parameter `positions`. Functions written in C show no parameters."""
    try:
        return "positions" in inspect.signature(attention).parameters
    except ValueError:
        return False


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each key/value head for its query heads: (B, K, S, D) -> (B, H, S, D), as 0 0 1 1, not 0 1 0 1."""
    B, K, S, D = x.shape
    if heads == K:
        return x
    return x[:, :, None].expand(B, K, heads // K, S, D).reshape(B, heads, S, D)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + D/2]) of every head by the angles of their positions (see rope.py).

    Shapes: x (B, H, T, D), cos and sin (B or 1, T, D) -> (B, H, T, D).
    Published checkpoints pair i with i + D/2 ("split halves"). Meta's own files pair i with i + 1; the conversion
    permuted their q and k rows. Rotating neighbours here gives fluent nonsense, not an error.
    """
    cos, sin = cos[:, None], sin[:, None]  # (B, 1, T, D)
    rotated = x * cos  # rounding: before the halves are taken, so that gradients are summed in the reference's layout
    first, second = x.chunk(2, dim=-1)
    return rotated + torch.cat((-second, first), dim=-1) * sin


class SwiGLU(nn.Module):
    """The MLP: silu(gate) scales each feature of up. See: "GLU Variants Improve Transformer", arXiv:2002.05202."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # (B, T, F) inside


class RMSNorm(nn.Module):
    """The weight and eps of one norm; `rms_norm` applies them."""

    def __init__(self, size: int, eps: float, norm: Norm):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each vector to a root mean square of 1, then each feature by its weight. See: arXiv:1910.07467.

    Shapes: x (B, T, C), weight (C,) -> (B, T, C).
    """
    y = x.to(torch.float32)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return weight * y.to(x.dtype)  # rounding: first the cast, then the weight
