"""The decoder: one transformer whose settings cover GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 and Qwen3.

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
from tutelage.model.cpu import RMSNorm, attend
from tutelage.model.rope import rope_at, rope_tables


@dataclass(slots=True)
class Pass:
    """What all layers of one forward share (all with the same window, where some have one and some have none)."""

    cos: Tensor | None  # [s, 1, rotary_dim] or [b, s, 1, rotary_dim]; None with learned positions
    sin: Tensor | None  # the same, first half negated
    mask: Tensor | None  # added to the attention scores, [b or 1, 1, s, s_kv]; None: plain causal or all visible
    causal: bool
    cache: KVCache | None
    slots: Tensor | None  # where the cache takes this pass's keys
    visible: int  # how many of the cache's slots any row may see; 0: none, the pass attends to itself alone
    dropout: float


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm that a family uses before its layers and at the end."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021) on x [b, s, heads, e]: the first rotary_dim numbers of a head, its halves being the pairs.

    ``sin`` has its first half negated, so that (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) takes one roll.
    """
    size = cos.shape[-1]
    if size == x.shape[-1]:
        return torch.addcmul(x * cos, x.roll(size // 2, -1), sin)
    turned = x[..., :size]
    return torch.cat((torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin), x[..., size:]), -1)


class Attention(nn.Module):
    """Multi-head attention, grouped when there are fewer key/value heads. Queries, keys and values are one product."""

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
        qk, v = qkv.split((h + g, g), 2)  # split, not slices: their gradients would be padded and added
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
            # One query a head: the heads of a group stand where queries stand, and no key is copied.
            out = F.scaled_dot_product_attention(
                q.view(b, g, h // g, self.head_dim), keys, values, attn_mask=shared.mask
            )
            return self.out(out.reshape(b, 1, h * self.head_dim))
        out = attend(q.transpose(1, 2), keys, values, shared.mask, shared.causal)
        return self.out(out.transpose(1, 2).reshape(b, s, h * self.head_dim))


def activate(name: str, x: Tensor) -> Tensor:
    """The MLP's nonlinearity; ``gelu_tanh`` is the approximation that Hugging Face calls gelu_new."""
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
    """One block: attention, then the MLP, each reading a norm of the residual stream and adding to it."""

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

    ``dropout`` (residual dropout, as InstructGPT's SFT used) is a plain attribute that a stage sets; it acts in train
    mode only, starts at 0 and is no part of a checkpoint. So is ``recompute``: with it a layer keeps its input alone for the
    backward pass and is computed again there (Chen et al. 2016). Weights are drawn from torch's global generator: normal with
    ``init_std``, the projections into the residual stream scaled by 1/sqrt(2 layers) (Radford et al. 2019, section 2.3)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.dropout, self.recompute = config, 0.0, False
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.final_norm = make_norm(config)
        tied = config.tie_embeddings
        self.unembed = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rope: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._windowless = frozenset(config.full_attention_layers)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights anew (see the class)."""
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
        added: Tensor | None = None,
    ) -> Tensor:
        """Token ids [b, s] -> hidden states [b, s, d] after the final norm.

        Without a mask attention is causal: right-padded batches need none, since no real token sees what follows it.
        ``attention_mask`` bool [b, s, s], True = query i may attend to key j (itself always), is for sequences that
        share a prefix, with ``positions`` [b, s] to match. With ``cache`` (generation) the tokens continue each row at
        its own length, which grows by s; give neither mask nor positions then. ``added`` [b, s, d] is more to read at each
        token: it is added to the token's embedding.

        With dynamic RoPE scaling the frequencies are those of this forward's last position, over the whole batch and with
        its padding, as in transformers; keys in the cache keep the ones that they were written with. So beyond
        max_position_embeddings, and only there, cached and uncached results differ and a batch's rows affect each other.
        """
        shared, windowless = self._prepare(ids, positions, attention_mask, cache)
        x = self.embed(ids)
        if self.places is not None:
            x = x + self._learned(ids, positions, cache)
        if added is not None:
            x = x + added.to(x.dtype)
        recompute = self.recompute and torch.is_grad_enabled() and cache is None
        for i, layer in enumerate(self.layers):
            extra = windowless if i in self._windowless else shared
            x = checkpoint(layer, x, extra, use_reentrant=False) if recompute else layer(x, extra)
        if cache is not None:
            cache.lengths = cache.lengths + ids.shape[1]
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> logits [..., v]. Select positions first: no product in the model is dearer."""
        if self.unembed is None and not self.config.tie_embeddings:
            raise RuntimeError("this decoder is the trunk of a scalar model and has no output layer")
        return F.linear(hidden, self.embed.weight if self.unembed is None else self.unembed.weight)

    def new_cache(self, batch: int, max_length: int, *, capacity: int | None = None) -> KVCache:
        """An empty cache on the model's device, in the type that a forward computes in (call it under the autocast)."""
        weight = self.embed.weight
        dtype = self._compute_dtype(weight)
        return KVCache(self.config, batch, max_length, capacity=capacity, device=weight.device, dtype=dtype)

    @staticmethod
    def _compute_dtype(x: Tensor) -> torch.dtype:
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

    def _prepare(
        self, ids: Tensor, positions: Tensor | None, attention_mask: Tensor | None, cache: KVCache | None
    ) -> tuple[Pass, Pass]:
        """What layers with the sliding window share, and what those without share: the same where the model has no such mix."""
        s, window = ids.shape[1], self.config.sliding_window
        windows = (window, None) if self._windowless else (window,)
        dropout = self.dropout if self.training else 0.0
        dtype = self._compute_dtype(self.embed.weight)
        if cache is None:
            cos, sin = self._angles(s, positions, dtype, ids.device)
            masks = [self._mask(ids, positions, attention_mask, dtype, window) for window in windows]
            passes = [Pass(cos, sin, mask, mask is None, None, None, 0, dropout) for mask in masks]
            return passes[0], passes[-1]
        if positions is not None or attention_mask is not None:
            raise ValueError("with a cache, positions and attention_mask follow from its lengths: leave both out")
        longest = cache.longest()
        cache.reserve(longest + s)
        slots = cache.slots(s)
        fresh = longest == 0 and s > 1  # a prefill sees itself alone, so plain causal attention will do
        at = None if fresh else self._cache_positions(cache, s)
        cos, sin = self._angles(longest + s, at, dtype, ids.device)
        passes = []
        for window in windows:
            if fresh and (window or s) >= s:
                passes.append(Pass(cos, sin, None, True, cache, slots, 0, dropout))
            else:
                mask = self._cache_mask(cache, s, longest + s, window)
                passes.append(Pass(cos, sin, mask, False, cache, slots, longest + s, dropout))
        return passes[0], passes[-1]

    @staticmethod
    def _cache_positions(cache: KVCache, s: int) -> Tensor:
        lengths = cache.lengths[:, None]
        return lengths if s == 1 else lengths + torch.arange(s, device=lengths.device)

    def _learned(self, ids: Tensor, positions: Tensor | None, cache: KVCache | None) -> Tensor:
        assert self.places is not None
        if cache is not None:
            return self.places(self._cache_positions(cache, ids.shape[1]))
        if positions is not None:
            return self.places(positions)
        if ids.shape[1] > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ValueError(f"{ids.shape[1]} tokens, but the model has positions for {limit}: shorten the batch")
        return self.places.weight[: ids.shape[1]]

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
        return _additive(seen | eye, dtype)  # a pad that may see nothing would be 0/0

    def _cache_mask(self, cache: KVCache, s: int, visible: int, window: int | None) -> Tensor | None:
        slots = torch.arange(visible, device=cache.lengths.device)
        last = self._cache_positions(cache, s)[:, :, None]  # [b, s, 1]: a token sees slots up to its own
        seen = slots <= last
        if window is not None:
            seen &= slots > last - window
        return _additive(seen, cache.dtype)

    def _angles(
        self, length: int, positions: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """cos and sin of RoPE in the compute type: for 0..length, or for ``positions`` (all below ``length``)."""
        if self.config.positions != "rope":
            return None, None
        scaling = self.config.rope_scaling
        if scaling is not None and scaling.kind == "dynamic":
            if positions is not None and positions.numel():
                length = int(positions.max()) + 1
            if length > self.config.max_position_embeddings:  # frequencies of this length alone: no table to keep
                places = torch.arange(length, device=device) if positions is None else positions
                one, other = rope_at(self.config, places, length)
                return one.to(dtype).unsqueeze(-2), other.to(dtype).unsqueeze(-2)
        cos, sin = self._rope.get((device, dtype), (None, None))
        if cos is None or sin is None or len(cos) < length:
            with torch.inference_mode(False):  # a table made while sampling must serve training too
                cos, sin = rope_tables(self.config, max(length, 256, 0 if cos is None else 2 * len(cos)), device)
                cos, sin = cos.to(dtype), sin.to(dtype)
            self._rope[(device, dtype)] = cos, sin
        if positions is None:
            return cos[:length, None], sin[:length, None]
        return cos[positions][:, :, None], sin[positions][:, :, None]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [b, s, s_kv] -> what is added to the scores [b, 1, s, s_kv]: once a pass, not once a layer."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[:, None]
