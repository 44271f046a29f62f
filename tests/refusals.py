"""What a refusal must be: one line that names the place, exit code 2, and nothing written. And a place to be refused in."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tutelage.cli import app as cli
from tutelage.data.formats import write_jsonl
from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.model.lora import add_adapters
from tutelage.model.peft_format import save_adapter
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.text.tokenizer import Tokenizer

TEXT = "The sky is blue and the road is long. " * 3


def contents(place: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder; of files also the size and when it was written (but of a run's lock, which says who came last)."""
    found = {}
    for path in sorted(place.rglob("*")):
        said = path.lstat()
        found[str(path)] = (0, 0) if path.is_dir() or path.name == "lock" else (said.st_size, said.st_mtime_ns)
    return found


def refused(capsys, place: Path, *arguments: str) -> str:
    """Run a command that must be refused; returns the line it says, without its ``tutelage: ``."""
    before = contents(place)
    code = cli.main(arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.startswith("tutelage: ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert "Traceback" not in said
    assert len(said) < 500
    assert contents(place).keys() == before.keys(), "something was left behind, or taken away"
    assert contents(place) == before
    return said.removeprefix("tutelage: ").rstrip("\n")


def make_place(folder: Path) -> None:
    """Tiny models of all kinds (`good`, `sharded`, `scorer`, `adapter`), and data for every stage."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([TEXT], 270)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2, max_position_embeddings=64
    )
    model = Decoder(config)
    ids = {"bos_id": tokenizer.bos_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    save_model(folder / "good", model, **ids)
    save_model(folder / "sharded", model, max_shard_bytes=8000, **ids)
    save_model(folder / "scorer", ScalarModel.from_decoder(model), **ids)
    for name in ("good", "sharded", "scorer", "tokenizer"):
        tokenizer.save(folder / name)
    adapted = add_adapters(copy.deepcopy(model), r=2, alpha=4.0, dropout=0.0, targets=("attention.qkv",))
    save_adapter(folder / "adapter", adapted, base="good")
    ask, answer = Message(role="user", content="What?"), Message(role="assistant", content="Blue.")
    prompt = Prompt(messages=(ask,))
    ranking = Ranking(prompt=prompt, completions=(Completion(text="Blue."), Completion(text="Red.")), ranks=(1, 2))
    write_jsonl(folder / "documents.jsonl", [Document(text=TEXT)] * 20)
    write_jsonl(folder / "demonstrations.jsonl", [Conversation(messages=(ask, answer))] * 4)
    write_jsonl(folder / "rankings.jsonl", [ranking] * 12)
    write_jsonl(folder / "prompts.jsonl", [prompt])


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything: for a while be somebody who may not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
