"""What a decode step needs of its rows, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.generate.hooks import Hooks
from tutelage.generate.prefill import Row
from tutelage.generate.request import Request
from tutelage.generate.sampler import History, SamplingRows, uniforms
from tutelage.model.cache import KVCache

DRAWS = 16
"""Steps whose random numbers are made at once: 12 small tensor operations every 16 steps instead of every step."""


@dataclass
class Batch:
    """The n active rows; made anew when a row joins or leaves."""

    cache: KVCache  # the first n rows of the engine's; on a GPU some more, which idle
    tokens: Tensor  # int64 [n]: the next input
    settings: SamplingRows
    history: History | None
    hooks: Hooks | None
    keys: Tensor  # int64 [n, 1]
    steps: Tensor  # int64 [n, 1]: how many tokens each row had when the draws were made
    longest: int  # tokens that the longest row holds
    temperature: Tensor  # float32 [n]; 0: greedy
    stop_ids: Tensor  # int64 [n, any], filled up with -1: what a row ends with, and what its mask begins with
    draws: Tensor | None = None  # float64 [n, DRAWS]
    drawn: int = DRAWS

    @classmethod
    def of(cls, rows: Sequence[Row], cache: KVCache, vocab_size: int) -> Batch:
        """The batch of these rows, whose keys are in the first rows of ``cache``; its lengths are set."""
        device = cache.lengths.device
        idle = [0] * (cache.batch - len(rows))
        cache.lengths = torch.tensor([*(row.held for row in rows), *idle], device=device)
        held = [row for row in rows if row.request.sampling.penalised]
        return cls(
            cache=cache,
            tokens=torch.tensor([row.ids[-1] if row.ids else row.request.ids[-1] for row in rows], device=device),
            settings=SamplingRows.of([row.request.sampling for row in rows], vocab_size, device),
            history=History.of([(row.request.ids, row.ids) for row in held], vocab_size, device) if held else None,
            hooks=Hooks.of([row.request for row in rows], [row.mask for row in rows], vocab_size),
            keys=torch.tensor([row.key for row in rows])[:, None],
            steps=torch.tensor([len(row.ids) for row in rows])[:, None],
            longest=max(row.held for row in rows),
            temperature=torch.tensor([row.request.sampling.temperature for row in rows]),
            stop_ids=_padded([_noticed(row.request) for row in rows]),
        )

    @property
    def plain(self) -> bool:
        """Whether every row samples from its logits over its temperature, and nothing looks at them between two tokens."""
        return self.hooks is None and self.history is None and self.settings.truncated is None

    def draw(self, most: int = 1) -> Tensor:
        """float64 [n, at most ``most``]: the random numbers of every row's next steps; the first counts as used."""
        if self.draws is None or self.drawn == DRAWS:
            draws = uniforms(self.keys, self.steps + torch.arange(DRAWS))
            device = self.cache.lengths.device
            self.draws = draws if device.type == "mps" else draws.to(device)  # mps has no float64
            self.steps, self.drawn = self.steps + DRAWS, 0
        self.drawn += 1
        return self.draws[:, self.drawn - 1 : self.drawn - 1 + most]


def _noticed(request: Request) -> list[int]:
    return sorted(request.stop_ids if request.mask_after is None else {*request.stop_ids, request.mask_after})


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """int64 [n, longest], filled up with -1."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows]).view(len(rows), longest).long()
