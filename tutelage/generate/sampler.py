"""From logits to the next token: settings per row, filters, penalties, and randomness that belongs to the request.

b: rows of the batch, v: vocabulary. The order is that of `transformers`: repetition, presence and frequency penalties, then
temperature, then top-k, top-p and min-p, each on what the previous one left.

A sample draws one number per token from a counter-based generator keyed by (seed, sample, step), and takes the token at that
point of the cumulative distribution. So its tokens depend neither on the rest of the batch, nor on the order of arrival, nor on
restarts. (The logits must be equal too: float32 products differ by about 1e-6 between batch shapes, bf16 ones by about 1e-2,
which changes a token when the draw falls that close to a boundary.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64
"""Probabilities are first summed in blocks of this many: 64 rows of 2,048 take 0.05 ms on CPU, a float64 cumsum 1.2 ms."""
CANDIDATES = 64
"""Largest logits looked at first; a row whose nucleus is wider is looked at again with 8 times as many. Of 2,048 entries, topk
takes 25 us per row and a whole sort 180 us."""


class Sampling(BaseModel):
    """How one request is sampled. The defaults are the model's own distribution, which is what rollouts need."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="divides the logits; 0: the likeliest token")
    top_k: int = Field(0, ge=0, description="sample from this many likeliest tokens and those tied with them; 0: all")
    # Holtzman et al. 2019
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the likeliest tokens that make up this probability")
    # Nguyen et al. 2024
    min_p: float = Field(0.0, ge=0, le=1, description="leave out tokens less likely than this share of the likeliest")
    # CTRL, Keskar et al. 2019
    repetition_penalty: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="divides positive, multiplies negative logits of all tokens so far"
    )
    presence_penalty: float = Field(
        0.0, allow_inf_nan=False, description="subtracted from the logits of all tokens in the answer so far"
    )
    frequency_penalty: float = Field(
        0.0, allow_inf_nan=False, description="subtracted once per occurrence of a token in the answer so far"
    )
    max_tokens: int = Field(128, ge=1, description="longest answer [tokens]")
    n: int = Field(1, ge=1, description="samples per prompt, each with its own random stream")
    seed: int = Field(0, description="seed; prompt i of several uses seed + i")

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def truncated(self) -> bool:
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def plain(self) -> bool:
        """Whether it samples from the model's own distribution."""
        return self.temperature == 1 and not self.truncated and not self.penalised


_MASK = (1 << 64) - 1
_GAMMA, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(x: int) -> int:
    """The same 64 bits read as an int64: torch has no unsigned arithmetic."""
    return x - (1 << 64) if x >> 63 else x


def _splitmix64(x: int) -> int:
    x = (x ^ (x >> 30)) * _MIX1 & _MASK
    x = (x ^ (x >> 27)) * _MIX2 & _MASK
    return x ^ (x >> 31)


def stream_key(seed: int, sample: int) -> int:
    """The start of a sample's random stream as an int64. Of ``seed``, any integer, 64 bits count."""
    seeded = _splitmix64((seed + _GAMMA) & _MASK)
    return _signed(_splitmix64((seeded + (sample + 1) * _GAMMA) & _MASK))


def uniforms(keys: Tensor, steps: Tensor) -> Tensor:
    """One number in [0, 1) for every (key, step): output ``steps`` of the splitmix64 generator (Steele et al. 2014) that starts
    at ``keys``. int64 tensors that broadcast -> float64, a multiple of 2^-53."""
    x = keys + (steps + 1) * _signed(_GAMMA)  # int64 products wrap, as the algorithm wants
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MIX1)  # the mask makes torch's arithmetic shift a logical one
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MIX2)
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


@dataclass(frozen=True)
class SamplingRows:
    """The settings of b rows as tensors. None where no row needs it, which makes plain sampling fast."""

    temperature: Tensor | None = None  # float32 [b, 1]; 1 where a row is greedy
    greedy: Tensor | None = None  # bool [b]
    all_greedy: bool = False
    truncated: Tensor | None = None  # int64 [t]: the rows with top_k, top_p or min_p
    top_k: Tensor | None = None  # int64 [t, 1]; v where off
    top_p: Tensor | None = None  # float32 [t, 1]; infinity where off
    min_p: Tensor | None = None  # float32 [t, 1]: the logarithm, -infinity where off
    deepest_k: int = 0  # the largest top_k
    penalised: Tensor | None = None  # int64 [q]: the rows with a penalty
    penalties: Tensor | None = None  # float32 [3, q, 1]: their repetition, presence and frequency penalties

    @classmethod
    def of(cls, rows: Sequence[Sampling], vocab_size: int, device: torch.device | str = "cpu") -> SamplingRows:
        """Collect the settings of a batch."""
        if all(row.plain for row in rows):
            return cls()

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        greedy = [row.temperature == 0 for row in rows]
        warm = any(row.temperature not in (0, 1) for row in rows)
        cut = [i for i, row in enumerate(rows) if row.truncated]
        ks = [min(rows[i].top_k, vocab_size) or vocab_size for i in cut]
        ps = [rows[i].top_p if rows[i].top_p < 1 else float("inf") for i in cut]
        held = [i for i, row in enumerate(rows) if row.penalised]
        names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
        return cls(
            temperature=column([row.temperature or 1.0 for row in rows]) if warm else None,
            greedy=torch.tensor(greedy, device=device) if any(greedy) else None,
            all_greedy=all(greedy),
            truncated=torch.tensor(cut, device=device) if cut else None,
            top_k=torch.tensor(ks, device=device)[:, None] if any(k < vocab_size for k in ks) else None,
            top_p=column(ps) if any(p < 1 for p in ps) else None,
            min_p=column([rows[i].min_p for i in cut]).log() if any(rows[i].min_p > 0 for i in cut) else None,
            deepest_k=max((k for k in ks if k < vocab_size), default=0),
            penalised=torch.tensor(held, device=device) if held else None,
            penalties=torch.stack([column([getattr(rows[i], name) for i in held]) for name in names]) if held else None,
        )


@dataclass(frozen=True)
class History:
    """What the penalties of the q penalised rows count."""

    in_prompt: Tensor  # bool [q, v]
    counts: Tensor  # int32 [q, v]: tokens of the answer so far

    @classmethod
    def of(
        cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int, device: torch.device | str = "cpu"
    ) -> History:
        """The history of q rows from the token ids of their (prompt, answer)."""
        in_prompt = torch.zeros(len(rows), vocab_size, dtype=torch.bool)
        counts = torch.zeros(len(rows), vocab_size, dtype=torch.int32)
        for i, (prompt, answer) in enumerate(rows):
            in_prompt[i, torch.tensor(prompt)] = True
            counts[i] = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=vocab_size)
        return cls(in_prompt.to(device), counts.to(device))

    def add(self, ids: Tensor) -> None:
        """Count the next token of every penalised row: int64 [q]."""
        self.counts[torch.arange(len(ids), device=ids.device), ids] += 1


def penalise(logits: Tensor, penalties: Tensor, history: History) -> Tensor:
    """logits [q, v] with repetition, presence and frequency penalties [3, q, 1] applied, in this order."""
    repetition, presence, frequency = penalties
    answered = history.counts > 0
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(history.in_prompt | answered, repeated, logits)
    return logits - frequency * history.counts - presence * answered


def _thresholds(logits: Tensor, rows: SamplingRows) -> Tensor:
    """[t, 1]: the smallest logit of each truncated row [t, v] that passes top-k, top-p and min-p. All three are thresholds, so
    equal logits are kept or dropped together."""
    peak = logits.amax(1, keepdim=True)
    threshold = torch.full_like(peak, -float("inf"))
    width = min(logits.shape[1], max(rows.deepest_k, CANDIDATES))
    largest = logits.topk(width).values if rows.top_k is not None or rows.top_p is not None else logits[:, :0]
    if rows.top_k is not None:
        kth = largest.gather(1, (rows.top_k - 1).clamp(max=width - 1))
        threshold = torch.where(rows.top_k < logits.shape[1], kth, threshold)
    if rows.top_p is not None:
        threshold = _nucleus_thresholds(logits, largest, threshold, rows.top_p)
    if rows.min_p is not None:
        threshold = torch.maximum(threshold, peak + rows.min_p)
    return threshold


def _nucleus_thresholds(logits: Tensor, largest: Tensor, floor: Tensor, top_p: Tensor) -> Tensor:
    """[t, 1]: the smallest logit of the smallest set of most likely tokens that holds top_p of the mass at or above ``floor``.
    ``largest`` [t, w] are the largest logits from high to low; rows that need more get more."""
    v = logits.shape[1]
    total = logits.masked_fill(logits < floor, -float("inf")).logsumexp(1, keepdim=True)
    result, todo = floor.clone(), torch.arange(len(logits), device=logits.device)
    while True:
        probs = (largest - total[todo]).exp().masked_fill(largest < floor[todo], 0.0).double()
        upto = probs.cumsum(1)
        last = (upto - probs < top_p[todo]).sum(1, keepdim=True).clamp(min=1) - 1
        result[todo] = torch.where(top_p[todo] <= 1, torch.maximum(largest.gather(1, last), floor[todo]), floor[todo])
        # Not done: a filter that reaches beyond the candidates, which are all above the floor.
        more = (upto[:, -1:] < top_p[todo]) & (largest[:, -1:] > floor[todo]) & (top_p[todo] <= 1)
        if largest.shape[1] == v or not bool(more.any()):
            return result
        todo = todo[more.flatten()]
        largest = logits[todo].topk(min(v, 8 * largest.shape[1])).values


def sampled_logits(logits: Tensor, rows: SamplingRows, history: History | None = None) -> Tensor:
    """Unnormalised log-probabilities [b, v] of the distribution each row samples from; -infinity where filtered out.

    A greedy row keeps its penalised logits at temperature 1, unfiltered.
    """
    logits = logits.float()
    if rows.penalised is not None:
        assert rows.penalties is not None
        assert history is not None
        logits = logits.index_copy(0, rows.penalised, penalise(logits[rows.penalised], rows.penalties, history))
    if rows.temperature is not None:
        logits = logits / rows.temperature
    if rows.truncated is not None:
        cut = logits[rows.truncated]
        cut = cut.masked_fill(cut < _thresholds(cut, rows), -float("inf"))
        logits = cut if len(cut) == len(logits) else logits.index_copy(0, rows.truncated, cut)
    return logits


def _block_of(blocks: Tensor, block: Tensor) -> Tensor:
    """blocks [b, n, BLOCK], block int64 [b, 1] -> the block of each row [b, BLOCK]."""
    return blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0]


def most_likely(logits: Tensor) -> Tensor:
    """The first of each row's largest logits: [b, v] -> int64 [b]. argmax, but 4x faster on CPU for many rows."""
    b, v = logits.shape
    if b < 4 or v % BLOCK:
        return logits.argmax(1)
    blocks = logits.view(b, -1, BLOCK)
    block = blocks.amax(2).argmax(1, keepdim=True)
    return block[:, 0] * BLOCK + _block_of(blocks, block).argmax(1)


def inverse_cdf(probs: Tensor, u: Tensor) -> Tensor:
    """The first token of each row whose cumulative probability exceeds u: probs [b, v], u float64 [b] in [0, 1) -> int64 [b].

    A token of probability 0 is never taken. The sum is over blocks and in float64, so that small probabilities keep their share
    in a vocabulary of any size.
    """
    if probs.device.type == "mps":  # it has no float64
        return inverse_cdf(probs.cpu(), u.cpu()).to(probs.device)
    b, v = probs.shape
    blocks = (F.pad(probs, (0, BLOCK - v % BLOCK)) if v % BLOCK else probs).view(b, -1, BLOCK)
    mass = blocks.sum(2).double()
    upto = mass.cumsum(1)
    target = u[:, None] * upto[:, -1:]
    block = torch.searchsorted(upto, target, right=True).clamp_(max=upto.shape[1] - 1)  # clamps of indices: rows of NaN
    share = (1 - (upto.gather(1, block) - target) / mass.gather(1, block)).clamp_(0, 1 - 2.0**-53)
    inner = _block_of(blocks, block).double().cumsum(1)
    offset = torch.searchsorted(inner, share * inner[:, -1:], right=True)
    return (block * BLOCK + offset).flatten().clamp_(max=v - 1)


def sample(
    logits: Tensor, rows: SamplingRows, u: Tensor, history: History | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample the next token of every row.

    logits [b, v] of any float type, u float64 [b] in [0, 1) -> ids int64 [b], logprobs float32 [b], probs float32 [b, v].

    ``logprobs`` and ``probs`` are of the distribution that was sampled, after penalties, temperature and filters; for a greedy
    row, of the one at temperature 1 after penalties. The logprob is NaN where logits are not finite: callers check it.
    """
    final = sampled_logits(logits, rows, history)
    probs = final.softmax(1)
    if rows.all_greedy:
        ids = most_likely(final)
    else:
        ids = inverse_cdf(probs, u)
        if rows.greedy is not None:
            ids = torch.where(rows.greedy, most_likely(final), ids)
    return ids, probs.gather(1, ids[:, None])[:, 0].log(), probs
