"""The guide's "Your own model", command by command, on a small model that transformers made and files of the toy task."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tutelage.cli import app as cli

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {"guide.md": "## Your own model", "guide.zh.md": "## 使用自己的模型"}
SMALLER = {
    "pretrain": {"--steps": "4", "--sequence": "64", "--batch_size": "4"},
    "sft": {"--epochs": "1", "--batch_size": "64"},
    "reward": {"--batch_size": "64"},
    "ppo": {"--updates": "2", "--batch_size": "8", "--minibatch": "8", "--max_tokens": "8"},
    "eval": {"--max_tokens": "8"},
}
"""The same commands with less work."""


def smaller(words: list[str]) -> list[str]:
    """A command's words with the settings of ``SMALLER`` in place of its own."""
    less = SMALLER.get(words[0], {})
    kept = [word for before, word in pairwise(["", *words]) if word not in less and before not in less]
    return [*kept, *(word for pair in less.items() for word in pair)]


def section(page: str) -> str:
    return re.split(r"^## ", (DOCS / page).read_text().split(PAGES[page])[1], flags=re.MULTILINE)[0]


def block(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", section(page), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def folder(toy, tmp_path) -> Path:
    """What the page supposes is there."""
    for name, source in (
        ("demos", "demonstrations"), ("rankings", "rankings"), ("prompts", "prompts"), ("test", "prompts"), ("text", "documents"),
    ):  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_bytes((toy.folder / f"{source}.jsonl").read_bytes())
    texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, 360, special_tokens=["<|endoftext|>"])
    base = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(base), max_position_embeddings=256, **shape)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs_and_the_last_model_can_be_talked_to(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "chat.jinja").write_text(block(page, "jinja"))
    commands = [shlex.split(line) for line in block(page, "bash").splitlines() if line and not line.startswith("#")]
    assert [words[1] for words in commands] == ["data", "data", "pretrain", "sft", "reward", "ppo", "eval", "chat"]
    *commands, chat = commands
    for words in commands:
        assert not cli.main(smaller(words[1:])), capsys.readouterr()
    from tutelage.assistant.assistant import Assistant

    assistant = Assistant.load(chat[-1], device="cpu")
    assert assistant.tokenizer.chat is not None
    assert isinstance(assistant.chat([{"role": "user", "content": "The cup is red. What colour is it?"}]), str)
    assert (folder / "own" / "ppo" / "checkpoint" / "adapter" / "adapter_config.json").exists()
    assert "trunk of its own" not in capsys.readouterr().out


def test_both_languages_give_the_same_commands():
    plain = [[line for line in block(page, "bash").splitlines() if line and not line.startswith("#")] for page in PAGES]
    assert plain[0] == plain[1]
    assert block("guide.md", "jinja") == block("guide.zh.md", "jinja")
