"""Held-out text, measured in bits per byte, which do not depend on the tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage.data.formats import OnBad, read_documents
from tutelage.data.tokens.shards import encode_documents
from tutelage.seeds import derive
from tutelage.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldoutText:
    """Token windows that cover a held-out text once, and the text's length in bytes."""

    ids: torch.Tensor
    """[n, sequence] inputs; the last window is padded."""
    targets: torch.Tensor
    """[n, sequence] the token after each input, -1 where there is none."""
    bytes: int
    documents: list[str]
    """The texts that are measured."""

    @classmethod
    def read(
        cls, path: Path, tokenizer: Tokenizer, sequence: int, *, limit: int = 200_000, on_bad: OnBad = "stop"
    ) -> HeldoutText:
        """Whole documents of about ``limit`` tokens in all. Every token but the first is predicted exactly once.

        The documents are drawn from the whole file, whose sources may stand one after the other; for every model the same.
        """
        documents = list(read_documents(path, on_bad=on_bad))
        order = sorted(range(len(documents)), key=lambda i: derive(0, "heldout.documents", i))
        stream: list[int] = []
        size, texts = 0, []
        for i, (ids, length) in zip(order, encode_documents((documents[i] for i in order), tokenizer), strict=False):
            stream += ids
            size += length
            texts.append(documents[i].text)
            if len(stream) >= limit:
                break
        count = max(1, math.ceil((len(stream) - 1) / sequence))
        windows = torch.full((count, sequence + 1), -1, dtype=torch.long)
        for i in range(count):
            chunk = stream[i * sequence : (i + 1) * sequence + 1]
            windows[i, : len(chunk)] = torch.tensor(chunk)
        return cls(windows[:, :-1].clamp(min=0), windows[:, 1:], size, texts)

    def bits_per_byte(self, nats: float) -> float:
        """Total negative log-likelihood [nats] -> bits per byte of the text."""
        return nats / math.log(2) / self.bytes
