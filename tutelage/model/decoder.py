"""The decoder: one transformer that covers GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 and Qwen3.

Names and shapes: b batch, s sequence, d hidden size, h heads, g key/value heads, e head_dim, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tutelage.model.cache import KVCache
from tutelage.model.config import ModelConfig
from tutelage.model.cpu import RMSNorm, attend, attend_once, cache_dtype
from tutelage.model.rope import rope_at


def cast_once(weight: Tensor) -> Tensor:
    """A frozen weight in the type of the surrounding autocast; other weights, and all outside autocast, as they are.

    The cast is kept with the weight and made again if the weight is written to. Autocast itself keeps casts only of weights that
    learn: reading the frozen trunk of a model of 135 M parameters, it would cast 0.4 GB in every forward.
    """
    kind = weight.device.type
    if weight.requires_grad or not torch.is_autocast_enabled(kind) or weight.dtype != torch.float32:
        return weight
    dtype, version = torch.get_autocast_dtype(kind), weight._version
    kept = getattr(weight, "cast", None)
    if kept is None or kept[0] != (dtype, version):
        kept = weight.cast = (dtype, version), weight.detach().to(dtype)  # type: ignore[attr-defined]
    return kept[1]


@dataclass(slots=True)
class Pass:
    """What the layers of one forward share; layers with and without a sliding window have one each."""

    cos: Tensor | None  # [s, 1, rotary_dim] or [b, s, 1, rotary_dim]; None with learned positions
    sin: Tensor | None  # the same, first half negated
    mask: Tensor | None  # added to the attention scores, [b or 1, 1, s, s_kv]; None: plain causal or all visible
    causal: bool
    cache: KVCache | None
    slots: Tensor | None  # where the cache stores this pass's keys
    visible: int  # slots of the cache that some row may see; 0: the pass attends only to itself
    dropout: float


def make_norm(config: ModelConfig) -> nn.Module:
    """A norm over the hidden size, of the family's kind."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021) on the first rotary_dim dimensions of x [b, s, heads, e], paired by halves.

    ``sin`` has its first half negated, so (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) takes one roll.
    """
    size = cos.shape[-1]
    if size == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(size // 2, -1), sin)
    turned = x[..., :size]
    return torch.cat((torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin), x[..., size:]), -1)


class Attention(nn.Module):
    """Multi-head attention, grouped if there are fewer key/value heads. Queries, keys and values are one product."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        width = self.heads * self.head_dim
        self.qkv = nn.Linear(config.hidden_size, width + 2 * self.kv_heads * self.head_dim, bias=config.qkv_bias)
        self.out = nn.Linear(width, config.hidden_size, bias=config.attention_out_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        b, s, _ = x.shape
        h, g = self.heads, self.kv_heads
        qkv = self.qkv(x).view(b, s, h + 2 * g, self.head_dim)
        qk, v = qkv.split((h + g, g), 2)  # split: the gradients of slices would be padded and added
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((h, g), 2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 2).to(qkv.dtype)
        if shared.cos is not None and shared.sin is not None:
            qk = rotate(qk, shared.cos, shared.sin)
        q, k = qk.split((h, g), 2)
        keys, values = k.transpose(1, 2), v.transpose(1, 2)
        if shared.cache is not None and shared.slots is not None:
            shared.cache.write(self.layer, shared.slots, keys, values)
            if shared.visible:
                keys = shared.cache.k[self.layer][:, :, : shared.visible]
                values = shared.cache.v[self.layer][:, :, : shared.visible]
                q = q.to(keys.dtype)
        if s == 1 and not shared.causal:
            out = attend_once(q.view(b, g, h // g, self.head_dim), keys, values, shared.mask)
            return self.out(out.reshape(b, 1, h * self.head_dim))
        out = attend(q.transpose(1, 2), keys, values, shared.mask, shared.causal)
        return self.out(out.transpose(1, 2).reshape(b, s, h * self.head_dim))


def activate(name: str, x: Tensor) -> Tensor:
    """The MLP's nonlinearity; ``gelu_tanh`` is Hugging Face's gelu_new."""
    if name == "silu":
        return F.silu(x)
    if name == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class MLP(nn.Module):
    """down(act(up(x))), or gated down(act(gate(x)) * up(x)) with gate and up as one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated_mlp
        width = config.intermediate_size
        self.up = nn.Linear(config.hidden_size, 2 * width if self.gated else width, bias=config.mlp_bias)
        self.down = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            gate, up = x.chunk(2, -1)
            return self.down(activate(self.activation, gate) * up)
        return self.down(activate(self.activation, x))


class Layer(nn.Module):
    """One block: attention and the MLP, each on a norm of the residual stream, each adding to the stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.attention_norm, self.attention = make_norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = make_norm(config), MLP(config)

    def forward(self, x: Tensor, shared: Pass) -> Tensor:
        attended = self.attention(self.attention_norm(x), shared)
        if shared.dropout:
            attended = F.dropout(attended, shared.dropout)
        if not self.parallel:
            x = x + attended
        fed = self.mlp(self.mlp_norm(x))
        if shared.dropout:
            fed = F.dropout(fed, shared.dropout)
        return x + attended + fed if self.parallel else x + fed


class Decoder(nn.Module):
    """A causal language model without its loss.

    Stages may set two attributes that are not part of a checkpoint: ``dropout``, initially 0 (residual dropout in train
    mode, as in InstructGPT's SFT), and ``recompute`` (layers keep only their input for the backward pass and run again
    there; Chen et al. 2016). Weights are drawn from torch's global generator: normal with ``init_std``, the projections
    into the residual stream scaled by 1/sqrt(2 layers) (Radford et al. 2019, section 2.3).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.dropout, self.recompute = config, 0.0, False
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.final_norm = make_norm(config)
        tied = config.tie_embeddings
        self.unembed = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rope: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._windowless = frozenset(config.full_attention_layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights anew."""
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                nn.init.normal_(weight, std=std / math.sqrt(2 * self.config.num_layers))

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KVCache | None = None,
        visible: int = 0,
    ) -> Tensor:
        """Token ids [b, s] -> hidden states [b, s, d] after the final norm.

        Without a mask attention is causal, which suffices for right-padded batches. ``attention_mask`` bool [b, s, s]
        (query i may attend to key j; always to itself) is for sequences that share a prefix, with matching ``positions``
        [b, s]. With ``cache`` (generation) the tokens continue each row at its own length, which grows by s; masks and
        positions are then a ValueError. ``visible``: how many slots of it the tokens look at, no fewer than the longest row will
        hold; 0: find out, which waits for the device.

        Dynamic RoPE scaling uses the frequencies of this forward's last position, over the whole batch with its padding, as
        in transformers; keys in the cache keep theirs. So beyond max_position_embeddings, and only there, cached and
        uncached results differ and the rows of a batch affect each other.
        """
        s, longest = ids.shape[1], 0
        if cache is not None:
            if positions is not None or attention_mask is not None:
                raise ValueError("with a cache, positions and attention_mask follow from its lengths: leave both out")
            longest = visible - s if visible else cache.longest()
            cache.reserve(longest + s)
            if longest or s == 1:  # otherwise a prefill, whose rows all start at 0
                positions = cache.positions(s)
        shared, windowless = self._prepare(ids, positions, attention_mask, cache, longest + s)
        x = self.embed(ids)
        if self.position_embedding is not None:
            x = x + self._learned(self.position_embedding, s, positions)
        recompute = self.recompute and torch.is_grad_enabled() and cache is None
        for i, layer in enumerate(self.layers):
            extra = windowless if i in self._windowless else shared
            x = checkpoint(layer, x, extra, use_reentrant=False) if recompute else layer(x, extra)
        if cache is not None:
            cache.lengths = cache.lengths + s
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> logits [..., v]. Select positions first: this is the model's most expensive product."""
        return F.linear(hidden, self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """Of the output layer, [v, d], in the type that products with it take if it is frozen."""
        if self.unembed is None and not self.config.tie_embeddings:
            raise RuntimeError("this decoder is the trunk of a scalar model and has no output layer")
        return cast_once(self.embed.weight if self.unembed is None else self.unembed.weight)

    def new_cache(self, batch: int, max_length: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache on the model's device, for forwards under the autocast that this is called under."""
        weight = self.embed.weight
        dtype = cache_dtype(self.compute_dtype(weight), weight.device)
        return KVCache(self.config, batch, max_length, capacity=capacity, device=weight.device, dtype=dtype)

    @staticmethod
    def compute_dtype(x: Tensor) -> torch.dtype:
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

    def _prepare(
        self, ids: Tensor, positions: Tensor | None, seen: Tensor | None, cache: KVCache | None, length: int
    ) -> tuple[Pass, Pass]:
        """What layers with the sliding window share, and what those without share: the same unless the model has both."""
        s, window = ids.shape[1], self.config.sliding_window
        dropout = self.dropout if self.training else 0.0
        dtype = self.compute_dtype(self.embed.weight)
        cos, sin = self._angles(length, positions, dtype, ids.device)
        slots = None if cache is None else cache.slots(s)
        passes = []
        for width in (window, None) if self._windowless else (window,):
            prefill = positions is None and (width is None or width >= s)  # sees only itself: plain causal attention
            if cache is None or prefill:
                mask = self._mask(ids, positions, seen, dtype, width)
                passes.append(Pass(cos, sin, mask, mask is None, cache, slots, 0, dropout))
            else:
                mask = self._cache_mask(cache, s, length, width)
                passes.append(Pass(cos, sin, mask, False, cache, slots, length, dropout))
        return passes[0], passes[-1]

    def _learned(self, embedding: nn.Embedding, s: int, positions: Tensor | None) -> Tensor:
        if positions is not None:
            return embedding(positions)
        limit = self.config.max_position_embeddings
        if s > limit:
            raise ValueError(f"{s} tokens, but the model has positions for {limit}: shorten the batch")
        return embedding.weight[:s]

    @staticmethod
    def _mask(
        ids: Tensor, positions: Tensor | None, attention_mask: Tensor | None, dtype: torch.dtype, window: int | None
    ) -> Tensor | None:
        s = ids.shape[1]
        if attention_mask is None and (window is None or window >= s):
            return None
        places = torch.arange(s, device=ids.device)[None] if positions is None else positions
        eye = torch.eye(s, dtype=torch.bool, device=ids.device)
        seen = torch.ones_like(eye).tril()[None] if attention_mask is None else attention_mask
        if window is not None:
            seen = seen & (places[:, :, None] - places[:, None, :] < window)
        return _additive(seen | eye, dtype)  # a padding token that sees nothing would give 0/0

    @staticmethod
    def _cache_mask(cache: KVCache, s: int, visible: int, window: int | None) -> Tensor:
        slots = torch.arange(visible, device=cache.lengths.device)
        last = cache.positions(s)[:, :, None]  # [b, s, 1]: a token sees slots up to its own
        seen = slots <= last
        if window is not None:
            seen &= slots > last - window
        return _additive(seen, cache.dtype)

    def _angles(
        self, length: int, positions: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """cos and sin of RoPE in the compute type, for positions below ``length`` or for ``positions``, all below it."""
        if self.config.positions != "rope":
            return None, None
        scaling = self.config.rope_scaling
        if scaling is not None and scaling.kind == "dynamic":
            if positions is not None and positions.numel():
                length = int(positions.max()) + 1
            if length > self.config.max_position_embeddings:  # no table: the frequencies depend on the length
                places = torch.arange(length, device=device) if positions is None else positions
                cos, sin = (table.to(dtype).unsqueeze(-2) for table in rope_at(self.config, places, length))
                return cos, sin
        tables = self._rope.get((device, dtype))
        if tables is None or len(tables[0]) < length:
            with torch.inference_mode(False):  # a table made while sampling must also serve training
                places = torch.arange(max(length, 256, 2 * len(tables[0]) if tables else 0), device=device)
                cos, sin = rope_at(self.config, places, self.config.max_position_embeddings)
                tables = self._rope[device, dtype] = cos.to(dtype), sin.to(dtype)
        cos, sin = tables
        if positions is None:
            return cos[:length, None], sin[:length, None]
        return cos[positions][:, :, None], sin[positions][:, :, None]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [b, s, s_kv] -> 0 or -inf to add to the scores [b, 1, s, s_kv]: once per pass, not per layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]
