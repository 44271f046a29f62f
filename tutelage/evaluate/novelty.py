"""Prompts unlike those that a model knows, found by its hidden states.

The features of a prompt are the mean over its tokens of the last hidden states, and its novelty is their Mahalanobis distance from
those of known prompts (Lee et al. 2018, arXiv 1807.03888; Bai et al. 2022, arXiv 2204.05862, detect foreign prompts so too).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.model.device import autocast
from tutelage.model.heads import ScalarModel
from tutelage.records import Document, Message, Prompt
from tutelage.statistics import auroc
from tutelage.text.chat import render_prompts

Floats = NDArray[np.float64]
_ROWS = 32  # prompts in a forward pass


class Known(NamedTuple):
    """A Gaussian of the features of known prompts: mean [d] and inverse covariance [d, d]."""

    mean: Floats
    precision: Floats

    @classmethod
    def of(cls, features: Floats, shrink: float = 0.1) -> Known:
        """From features [n, d]. The share ``shrink`` of the covariance is that of a sphere of the same trace.

        So it can be inverted with fewer prompts than dimensions. UsageError for fewer than two different prompts.
        """
        x = np.asarray(features, dtype=np.float64)
        if len(x) < 2 or not x.var(0).sum() > 0:
            raise UsageError(f"novelty is measured against two known prompts or more that differ; found {len(x)}")
        covariance = np.atleast_2d(np.cov(x, rowvar=False))
        d = len(covariance)
        sphere = np.eye(d) * np.trace(covariance) / d
        return cls(x.mean(0), np.linalg.inv((1 - shrink) * covariance + shrink * sphere))

    def distance(self, features: Floats) -> Floats:
        """The Mahalanobis distances [n] of features [n, d]."""
        away = np.asarray(features, dtype=np.float64) - self.mean
        return np.sqrt(np.einsum("nd,de,ne->n", away, self.precision, away))


@torch.no_grad()
def features(assistant: Assistant, prompts: Sequence[Prompt]) -> Floats:
    """[n, d] the mean of the last hidden states of each prompt, in the model's own tokens; too long a prompt is cut at its end."""
    decoder = assistant.model.decoder if isinstance(assistant.model, ScalarModel) else assistant.model
    prompt_ids = render_prompts(assistant.tokenizer, [prompt.messages for prompt in prompts])
    rows = [ids[: assistant.context] for ids in prompt_ids]
    order, found = sorted(range(len(rows)), key=lambda i: len(rows[i])), {}
    for start in range(0, len(order), _ROWS):
        members = order[start : start + _ROWS]
        ids = pad_sequence([torch.tensor(rows[i]) for i in members], True, assistant.tokenizer.pad_id)
        with autocast(assistant.device, assistant.dtype):
            hidden = decoder(ids.to(assistant.device))
        for place, i in enumerate(members):
            found[i] = hidden[place, : len(rows[i])].float().mean(0).cpu().numpy()
    return np.stack([found[i] for i in range(len(rows))]).astype(np.float64)


def novelty_figures(
    assistant: Assistant, own: Sequence[Prompt], foreign: Mapping[str, Sequence[Prompt]]
) -> dict[str, dict[str, Any]]:
    """Name of foreign prompts -> the AUROC of their novelty against that of known ones, and how many of each.

    Every second one of the different ``own`` prompts is what is known, and the others are compared. UsageError if either
    side has too few.
    """
    different = list({prompt.messages: prompt for prompt in own}.values())
    known, others = different[::2], different[1::2]
    if len(known) < 2 or not others:
        raise UsageError(f"novelty needs three different prompts of its own or more, found {len(different)}")
    gaussian = Known.of(features(assistant, known))
    usual = gaussian.distance(features(assistant, others))
    rows = {}
    for name, prompts in foreign.items():
        if not prompts:
            raise UsageError(f"foreign prompts {name!r}: there are none")
        unusual = gaussian.distance(features(assistant, prompts))
        rows[name] = {"auroc": auroc(unusual, usual), "own": len(others), "foreign": len(prompts), "known": len(known)}
    return rows


def passages(documents: Sequence[Document], like: Sequence[Prompt], most: int = 500) -> list[Prompt]:
    """Texts as prompts of about the lengths of others, so that neither length nor a cut within a sentence gives them away.

    From evenly spread places of each document, at most ``most`` in all: the next whole sentences, one or as many as come nearest
    to the length of a prompt.
    """
    lengths = [max(1, len(prompt.messages[-1].text)) for prompt in like]
    each = max(1, most // max(1, len(documents)))
    found: list[Prompt] = []
    for document in documents[:most]:
        for i in range(each):
            text = _sentences(document.text, len(document.text) * i // each, lengths[len(found) % len(lengths)])
            if text:
                found.append(Prompt(messages=(Message(role="user", content=text),)))
    return list({prompt.messages: prompt for prompt in found}.values())


_ENDS = re.compile(r"""[.!?…]+["'”’)]*(?=\s)|[。！？]+[”’」』）]*|\n{2,}|\Z""")


def _sentences(text: str, place: int, length: int) -> str:
    """Whole sentences after ``place``, together about as long as ``length``; empty if there is none."""
    ends = (found.end() for found in _ENDS.finditer(text, place))
    start = 0 if place == 0 else next(ends, len(text))
    best = ""
    for end in ends:
        passage = " ".join(text[start:end].split())  # lines that are broken at a width would tell too
        if best and abs(len(passage) - length) >= abs(len(best) - length):
            break
        best = passage
    return best
