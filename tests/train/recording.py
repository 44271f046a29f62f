"""What a run of a stage draws at random, recorded while it runs, so that plain Python can compute the rest again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from tutelage.data.tokens.mixing import Mixture
from tutelage.generate.engine import Engine
from tutelage.generate.request import Request
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel


@dataclass
class Step:
    """What one optimiser step learned from."""

    rows: set[tuple[int, ...]] = field(default_factory=set)  # ids of each sequence that went through a model, or padded
    windows: list[list[int]] = field(default_factory=list)  # pretraining text
    widest: int = 0  # most sequences in a forward pass with a gradient
    largest: int = 0  # most tokens in such a pass of several rows, padding included

    def chosen(self, sequences: Sequence[Sequence[int]]) -> list[int]:
        """The numbers of those of the sequences, which are all different, that the step learned from."""
        return [i for i, ids in enumerate(sequences) if any(row[: len(ids)] == tuple(ids) for row in self.rows)]


@dataclass
class Drawn:
    """A batch of sampled answers, and the optimiser steps that came after it."""

    requests: list[Request]
    answers: list[list[int]]
    finished: list[bool]
    steps: list[Step] = field(default_factory=list)

    def minibatches(self) -> list[list[int]]:
        """For each step, the numbers of the answers that it learned from."""
        whole = [[*r.ids, *answer] for r, answer in zip(self.requests, self.answers, strict=True)]
        return [step.chosen(whole) for step in self.steps]


@dataclass
class Record:
    """A whole run."""

    steps: list[Step] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)  # the weights of new scalar heads
    only_read: set[tuple[int, ...]] = field(default_factory=set)  # rows that went through a model without a gradient


def sequences(ids: Tensor, positions: Tensor | None) -> list[tuple[int, ...]]:
    """The rows, apart where a position of 0 says that another sequence of at least two tokens begins."""
    if positions is None:
        return list(map(tuple, ids.tolist()))
    starts = [[*(place == 0).nonzero()[:, 0].tolist(), len(place)] for place in positions]
    cut = [row[a:b] for row, at in zip(ids.tolist(), starts, strict=True) for a, b in itertools.pairwise(at)]
    return [tuple(sequence) for sequence in cut if len(sequence) > 1]


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Record the run that happens inside."""
    record, current = Record(), Step()
    generate, forward, batch, new_head = Engine.generate, Decoder.forward, Mixture.batch, ScalarModel.__init__

    def generating(engine, requests, *rest, **options):
        given = list(requests)
        samples = [one[0] for one in generate(engine, given, *rest, **options)]
        ended = [sample.finish_reason == "stop" for sample in samples]
        record.drawn.append(Drawn(given, [list(sample.ids) for sample in samples], ended))
        return [[sample] for sample in samples]

    def running(decoder, ids, positions=None, **options):
        rows = sequences(ids, positions)
        if torch.is_grad_enabled():
            current.rows.update(rows)
            current.widest = max(current.widest, len(rows))
            current.largest = max(current.largest, ids.numel() if len(ids) > 1 else 0)
        else:
            record.only_read.update(rows)
        options["positions"] = positions
        return forward(decoder, ids, **options)

    def reading(mixture, *rest):
        windows = batch(mixture, *rest)
        current.windows.extend(windows.tolist())
        return windows

    def beginning(model, *rest, **options):
        new_head(model, *rest, **options)
        record.heads.append(model.head.weight.detach().clone())

    def stepped(*_) -> None:
        nonlocal current
        record.steps.append(current)
        if record.drawn:
            record.drawn[-1].steps.append(current)
        current = Step()

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "generate", generating)
        patch.setattr(Decoder, "forward", running)
        patch.setattr(Mixture, "batch", reading)
        patch.setattr(ScalarModel, "__init__", beginning)
        hook = register_optimizer_step_post_hook(stepped)
        yield record
        hook.remove()
