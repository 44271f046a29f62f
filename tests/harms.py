"""Ways to harm a model folder, for the tests of what is said of such folders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tutelage.text.tokenizer import Tokenizer

Harm = Callable[[Path], Any]

CONFIG, WEIGHTS, INDEX, TOKENIZER = "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
TOKENIZER_CONFIG, TEMPLATE, GENERATION = "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
DEEP = b'{"a": ' * 100_000
NORM = "model.norm.weight"
OTHER_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


def write(name: str, content: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(content)


def recode(name: str, encoding: str) -> Harm:
    return lambda folder: (folder / name).write_bytes((folder / name).read_text().encode(encoding))


def without(name: str) -> Harm:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Harm:
    """To ``size`` bytes, or by that many where it is negative."""
    return lambda folder: os.truncate(folder / name, size if size > 0 else (folder / name).stat().st_size + size)


def as_folder(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return harm


def change(name: str, **values: Any) -> Harm:
    """Settings of a JSON file; ``...`` takes one away."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return harm


def config(**values: Any) -> Harm:
    return change(CONFIG, **values)


def rope(**values: Any) -> Harm:
    return change(CONFIG, rope_parameters=..., **values)


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        edit(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return harm


def norm(tensor: torch.Tensor) -> Harm:
    return tensors(lambda state: state.update({NORM: tensor}))


def header(**lies: Any) -> Harm:
    """What the header of the weights says of the last norm."""

    def harm(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(content[:8], "little")
        said = json.loads(content[8 : 8 + size])
        said[NORM] |= lies
        written = json.dumps(said).encode()
        (folder / WEIGHTS).write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])

    return harm


def index(**places: Any) -> Harm:
    """Files that the index names for tensors; ``...`` takes one away."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        content["weight_map"] |= {name.replace("__", "."): file for name, file in places.items()}
        content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file is not ...}
        (folder / INDEX).write_text(json.dumps(content))

    return harm


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def vocabulary(**tokens: int) -> Harm:
    def harm(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        content["model"]["vocab"] |= tokens
        (folder / TOKENIZER).write_text(json.dumps(content))

    return harm


def larger_tokenizer(folder: Path) -> None:
    Tokenizer.train([" ".join(f"word{i} thing{i}" for i in range(400))] * 3, 600).save(folder)


def template(text: str) -> Harm:
    """A layout that is not ours: the tokenizer is then read as an imported one."""
    return write(TEMPLATE, text.encode())


def imported(*harms: Harm) -> Harm:
    def harm(folder: Path) -> None:
        for each in (template(OTHER_TEMPLATE), *harms):
            each(folder)

    return harm
