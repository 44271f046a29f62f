"""The key/value cache of generation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.model.config import ModelConfig

_BLOCK = 64  # slots are allocated in multiples of this, and at least doubled on growth


class KVCache:
    """Keys and values of every layer, for ``b`` rows of up to ``max_length`` tokens, each row with its own length.

    ``k[layer]``, ``v[layer]``: [b, kv_heads, capacity, head_dim] (views). ``lengths``: LongTensor [b], the tokens in each
    row; slots from ``lengths[i]`` on are free, whatever they contain. A forward with the cache writes its ``s`` tokens
    into slots ``lengths[i] .. lengths[i]+s`` and adds ``s`` to every length. After a right-padded prefill the caller sets
    ``lengths`` to the true ones, and later tokens overwrite the padding. Nothing in a cache carries a gradient.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_length: int,
        *,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.max_length = config, max_length
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        slots = max_length if capacity is None else min(capacity, max_length)
        # Heads before slots: attention of one step is 10-45% faster on CPU than with slots before heads.
        shape = (2, config.num_layers, batch, config.num_kv_heads, slots, config.head_dim)
        self._set_store(torch.zeros(shape, device=device, dtype=dtype))

    def _set_store(self, store: Tensor) -> None:
        self.store = store
        layers = range(store.shape[1])
        self.k, self.v = ([side[i] for i in layers] for side in store.unbind(0))
        self._flat_k, self._flat_v = ([side[i].flatten(0, 2) for i in layers] for side in store.unbind(0))

    @property
    def batch(self) -> int:
        return self.store.shape[2]

    @property
    def capacity(self) -> int:
        """Allocated slots per row."""
        return self.store.shape[4]

    @property
    def dtype(self) -> torch.dtype:
        return self.store.dtype

    def longest(self) -> int:
        """The length of the longest row (0 without rows)."""
        return int(self.lengths.max()) if self.batch else 0

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens per row. ValueError above ``max_length``."""
        if length <= self.capacity:
            return
        if length > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens per row, {length} are needed")
        new = min(self.max_length, -(-max(2 * self.capacity, length) // _BLOCK) * _BLOCK)
        store = self.store.new_zeros(*self.store.shape[:4], new, self.store.shape[5])
        store[:, :, :, :, : self.capacity] = self.store
        self._set_store(store)

    def positions(self, count: int) -> Tensor:
        """The positions of the next ``count`` tokens of every row: [b, count]."""
        lengths = self.lengths[:, None]
        return lengths if count == 1 else lengths + torch.arange(count, device=lengths.device)

    def slots(self, count: int) -> Tensor:
        """Where ``write`` puts the next ``count`` tokens of every row: flat indices [b * kv_heads * count]."""
        heads = self.config.num_kv_heads
        starts = torch.arange(self.batch * heads, device=self.lengths.device).view(-1, heads, 1) * self.capacity
        return (starts + self.positions(count)[:, None]).flatten()

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store ``k`` and ``v`` [b, kv_heads, s, head_dim] of one layer at ``slots``. Lengths do not change."""
        self._flat_k[layer].index_copy_(0, slots, k.detach().flatten(0, 2).to(self.dtype))
        self._flat_v[layer].index_copy_(0, slots, v.detach().flatten(0, 2).to(self.dtype))

    def part(self, start: int, stop: int, lengths: Tensor | None = None) -> KVCache:
        """A view of rows start..stop, which writes to them; empty without ``lengths``. It must not grow."""
        view = copy.copy(self)
        view._set_store(self.store[:, :, start:stop])
        view.lengths = torch.zeros_like(self.lengths[start:stop]) if lengths is None else lengths
        return view

    def select(self, rows: Sequence[int] | Tensor) -> KVCache:
        """A new cache of these rows, in order and possibly repeated, with no more slots than they need."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        new = object.__new__(KVCache)
        new.config, new.max_length = self.config, self.max_length
        new.lengths = self.lengths[index]
        held = int(new.lengths.max()) if len(index) else 0
        slots = min(self.capacity, -(-max(held, 1) // _BLOCK) * _BLOCK)
        new._set_store(self.store[:, :, :, :, :slots].index_select(2, index))
        return new

    def put(self, rows: Sequence[int] | Tensor, other: KVCache) -> None:
        """Replace ``rows`` of this cache with the rows of ``other``, in order."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        held = other.longest()
        self.reserve(held)
        self.store[:, :, index, :, :held] = other.store[:, :, :, :, :held].to(self.dtype)
        self.lengths[index] = other.lengths
