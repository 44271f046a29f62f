"""The log-likelihood of continuations of texts, with what several of them continue computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.data.tokens.batches import cut_by_length, pad_right, tree_mask
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast
from tutelage.model.likelihood import READ_TOKENS, per_token

_ROWS = 64  # the most rows in a forward pass
Ids = tuple[int, ...]


class Likelihood(NamedTuple):
    """Of one continuation."""

    logprob: float
    """Sum over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest one."""
    tokens: int


class _Row(NamedTuple):
    """A context and its continuations in one row of ids; the last token of each predicts nothing and is left out."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    """0 in the context, i in the i-th continuation (from 1)."""
    places: list[int]
    """For each token of each continuation, the index of the token that it is predicted after."""
    targets: list[int]

    @classmethod
    def of(cls, context: Ids, continuations: Sequence[Ids]) -> _Row:
        row = cls(list(context), list(range(len(context))), [0] * len(context), [], [])
        for segment, tokens in enumerate(continuations, 1):
            start, more = len(row.ids), len(tokens) - 1
            row.places.extend([len(context) - 1, *range(start, start + more)])
            row.targets.extend(tokens)
            row.ids.extend(tokens[:-1])
            row.positions.extend(range(len(context), len(context) + more))
            row.segments.extend([segment] * more)
        return row


def likelihoods(
    model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, pad_id: int, dtype: str = "auto"
) -> list[Likelihood]:
    """The likelihood of each pair (ids before, ids of the continuation); neither may be empty.

    Pairs with the same ids before share one row, in which no continuation sees another (``tree_mask``); equal pairs are computed
    once. Rows of similar length share a forward pass.
    """
    wanted = [(tuple(before), tuple(after)) for before, after in pairs]
    groups: dict[Ids, dict[Ids, None]] = {}  # the inner one is an ordered set
    for before, after in wanted:
        groups.setdefault(before, {})[after] = None
    asked = [
        (before, list(continuations), _Row.of(before, list(continuations))) for before, continuations in groups.items()
    ]
    # A mask costs more than plain causal attention, which is enough where nothing stands behind the first continuation.
    plain = [one for one in asked if max(one[2].segments) < 2]
    masked = [one for one in asked if max(one[2].segments) >= 2]
    known: dict[tuple[Ids, Ids], Likelihood] = {}
    for some in filter(None, (plain, masked)):
        for piece in cut_by_length([len(row.ids) for _, _, row in some], most=_ROWS, tokens=READ_TOKENS):
            members = [some[i] for i in piece]
            values = _read(model, [row for _, _, row in members], pad_id, dtype, masked=some is masked)
            start = 0
            for before, continuations, _ in members:
                for after in continuations:
                    own, start = values[start : start + len(after)], start + len(after)
                    known[before, after] = Likelihood(own[:, 0].sum().item(), bool(own[:, 1].all()), len(after))
    return [known[pair] for pair in wanted]


@torch.no_grad()
def _read(model: Decoder, rows: Sequence[_Row], pad_id: int, dtype: str, *, masked: bool) -> Tensor:
    """float64 [n, 2]: log-probability of each target of the rows in turn, and whether it is the likeliest token."""
    device = next(model.parameters()).device
    ids = pad_right([row.ids for row in rows], pad_id)[0].to(device)
    given = {}
    if masked:
        given["positions"] = pad_right([row.positions for row in rows], 0)[0].to(device)
        given["attention_mask"] = tree_mask(pad_right([row.segments for row in rows], -1)[0].to(device))
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row.places], device=device)
    places = torch.tensor([place for row in rows for place in row.places], device=device)
    targets = torch.tensor([target for row in rows for target in row.targets], device=device)
    with autocast(device, dtype):
        return per_token(model, model(ids, **given)[owner, places], _logprob_and_rank, targets).double().cpu()


def _logprob_and_rank(logits: Tensor, targets: Tensor) -> Tensor:
    own = logits.gather(1, targets[:, None])[:, 0]
    return torch.stack(
        [-F.cross_entropy(logits.float(), targets, reduction="none"), (own >= logits.amax(1)).float()], 1
    )
