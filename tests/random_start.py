"""Checkpoints with random weights, where tokens still differ much in probability: what a wiring test starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tutelage.data.formats import write_jsonl
from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.records import Conversation, Document, Message, Prompt
from tutelage.text.tokenizer import Tokenizer

PROMPTS = [Prompt(messages=(Message(role="user", content="?" * (i + 1)),), id=str(i)) for i in range(7)]


@dataclass(frozen=True)
class Start:
    """A folder with the checkpoints sft and reward, prompts.jsonl and text.jsonl."""

    folder: Path
    tokenizer: Tokenizer


def make_start(folder: Path) -> Start:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["a small text, and another"] * 20, 280)
    critic = ScalarModel.from_decoder(random_decoder(tokenizer, 1))
    for name, model in (("sft", random_decoder(tokenizer, 0)), ("reward", critic)):
        save(folder / name, model, tokenizer)
    write_jsonl(folder / "prompts.jsonl", PROMPTS)
    write_jsonl(folder / "text.jsonl", [Document(text=f"{i} small texts, and {i * i} others") for i in range(30)])
    return Start(folder, tokenizer)


def random_decoder(tokenizer: Tokenizer, seed: int) -> Decoder:
    """A small decoder that ends a turn now and then."""
    torch.manual_seed(seed)
    model = Decoder(
        ModelConfig(
            family="llama", vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2,
            max_position_embeddings=64, init_std=0.3,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.unembed.weight[tokenizer.end_id] *= 6.0
    return model


def save(folder: Path, model: Decoder | ScalarModel, tokenizer: Tokenizer) -> None:
    save_model(folder, model, bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(folder)


def talk(*texts: str) -> Conversation:
    """A conversation in which the user begins."""
    roles = ("user", "assistant")
    return Conversation(messages=tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)))


def logprobs_of(model: Decoder, before: Sequence[int], after: Sequence[int]) -> list[Tensor]:
    """The log-probability of each token of ``after``, from one unpadded row."""
    logits = model.logits(model(torch.tensor([[*before, *after]])))[0]
    rows = [logits[place] - logits[place].exp().sum().log() for place in range(len(before) - 1, len(logits) - 1)]
    return [row[token] for row, token in zip(rows, after, strict=True)]


def text_loss(model: Decoder, windows: Sequence[list[int]]) -> Tensor:
    """Mean negative log-likelihood of all tokens of the windows but their first."""
    return torch.stack([-p for window in windows for p in logprobs_of(model, window[:1], window[1:])]).mean()
