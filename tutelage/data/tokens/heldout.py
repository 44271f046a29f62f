"""Held-out text, measured in bits per byte, which do not depend on the tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from tutelage.data.formats import read_documents
from tutelage.data.tokens.shards import encode_documents
from tutelage.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldoutText:
    """Token windows that cover a held-out text once, and the text's length in bytes."""

    ids: torch.Tensor
    """[n, sequence] inputs; the last window is padded."""
    targets: torch.Tensor
    """[n, sequence] the token after each input, -1 where there is none."""
    bytes: int
    documents: int
    """How many documents, from the beginning of the file."""

    @classmethod
    def read(cls, path: Path, tokenizer: Tokenizer, sequence: int, *, limit: int = 200_000) -> HeldoutText:
        """Read whole documents until about ``limit`` tokens. Every token but the first is predicted exactly once."""
        stream: list[int] = []
        size = documents = 0
        for ids, length in encode_documents(read_documents(path), tokenizer):
            stream += ids
            size += length
            documents += 1
            if len(stream) >= limit:
                break
        count = max(1, math.ceil((len(stream) - 1) / sequence))
        windows = torch.full((count, sequence + 1), -1, dtype=torch.long)
        for i in range(count):
            chunk = stream[i * sequence : (i + 1) * sequence + 1]
            windows[i, : len(chunk)] = torch.tensor(chunk)
        return cls(windows[:, :-1].clamp(min=0), windows[:, 1:], size, documents)

    def bits_per_byte(self, nats: float) -> float:
        """Total negative log-likelihood [nats] -> bits per byte of the text."""
        return nats / math.log(2) / self.bytes
