"""A classifier that one can ask, from Python: ``TextClassifier.load(path).probabilities(["a fine film"])``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from tutelage.model.checkpoint import load_classifier
from tutelage.model.device import autocast, pick_device
from tutelage.model.heads import Classifier, fit_vocabulary
from tutelage.model.hub import resolve_model
from tutelage.records import Labelled
from tutelage.text.classification import lay_out
from tutelage.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextClassifier:
    """A classifier with its tokenizer."""

    model: Classifier
    tokenizer: Tokenizer
    dtype: str = "auto"

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", dtype: str = "auto") -> TextClassifier:
        """Read a checkpoint that ``tutelage classify`` wrote. CheckpointError names what is missing."""
        folder = resolve_model(path)
        model, tokenizer = load_classifier(folder, pick_device(device)), Tokenizer.load(folder)
        fit_vocabulary(model, tokenizer.vocab_size)
        return cls(model, tokenizer, dtype)

    @torch.no_grad()
    def probabilities(self, examples: Sequence[str | Labelled]) -> list[list[float]]:
        """Of each example the probability of each class, in the order of ``model.labels``, or of each of its choices.

        A text alone will do for a classifier of texts; labels are not read. Of texts longer than the model's context the
        beginning is cut off, as in training.
        """
        given = [Labelled(text=example) if isinstance(example, str) else example for example in examples]
        longest = self.model.decoder.config.max_position_embeddings // 8 * 8
        device = next(self.model.parameters()).device
        found: list[list[float]] = []
        for rows, _ in lay_out(self.tokenizer, self.model.format, given, longest):
            ids = pad_sequence([torch.tensor(row) for row in rows], True, self.tokenizer.pad_id).to(device)
            last = torch.tensor([len(row) - 1 for row in rows], device=device)
            with autocast(device, self.dtype):
                logits, _ = self.model(ids, last, [len(rows)])
            found += logits.cpu().double().softmax(1).tolist()
        return found
