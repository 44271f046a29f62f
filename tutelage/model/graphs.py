"""Decoding on a GPU without Python between its kernels: a step is recorded once per shape and played back (CUDA graphs).

At one row a step of a small model is a hundred kernels of some microseconds each, and launching them one by one takes longer than
they do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder

_FEWEST = 128
"""Fewest slots of the cache that a recording looks at; beyond, the next power of two."""


@dataclass
class _Recording:
    tokens: Tensor  # int64 [rows]
    lengths: Tensor  # int64 [rows]
    play: Callable[[], Tensor]  # -> logits [rows, v]


def recordable(model: Decoder) -> bool:
    """Whether steps of this model can be recorded: on CUDA, and without RoPE that looks at the longest row."""
    scaling = model.config.rope_scaling
    wanted = os.environ.get("TUTELAGE_DECODE", "auto") != "torch"
    return wanted and model.embed.weight.is_cuda and (scaling is None or scaling.kind != "dynamic")


class GraphDecoder:
    """Steps of one token per row through ``model``, whose weights stay where they are. Call it under autocast and inference mode.

    A step of n tokens works on the smallest power of two of rows that holds them (``rows``), those behind them idle, and
    looks at a power of two of slots. So a batch that shrinks and grows needs few recordings. They are dropped when the cache
    has moved or has another shape.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._store: tuple[object, ...] = ()  # where the cache of the recordings is, and its strides

    @staticmethod
    def rows(n: int, most: int) -> int:
        """Rows that a step of n rows works on, of at most ``most``."""
        return min(most, 1 << (n - 1).bit_length())

    def step(self, tokens: Tensor, cache: KVCache, longest: int) -> Tensor:
        """Tokens [n] -> logits [n, v]. The cache has at least n rows, of which none holds more than ``longest`` tokens; its lengths
        grow by 1. The logits are overwritten by the next step."""
        store = cache.store.data_ptr(), cache.store.stride()  # another may have come to the same address
        if store != self._store:
            self._recordings, self._store = {}, store
        visible = min(cache.capacity, max(_FEWEST, 1 << longest.bit_length()))
        key = cache.batch, visible
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._recordings[key] = self._prepare(cache, visible)
        recording.tokens[: len(tokens)].copy_(tokens)
        recording.lengths.copy_(cache.lengths)
        cache.lengths = cache.lengths + 1
        return recording.play()[: len(tokens)]

    def _prepare(self, cache: KVCache, visible: int) -> _Recording:
        tokens, lengths = torch.zeros_like(cache.lengths), torch.zeros_like(cache.lengths)
        view = cache.part(0, cache.batch, lengths)

        def step() -> Tensor:
            view.lengths = lengths
            return self._model.logits(self._model(tokens[:, None], cache=view, visible=visible)[:, 0])

        if not tokens.is_cuda:
            return _Recording(tokens, lengths, step)
        lengths.copy_(cache.lengths)  # what is written while recording is written again when it is played
        with torch.autocast("cuda", cache_enabled=False, enabled=torch.is_autocast_enabled("cuda")):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # libraries set themselves up in the first calls, which cannot be recorded
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = step()

        def play() -> Tensor:
            graph.replay()
            return logits

        return _Recording(tokens, lengths, play)
