"""Adapters in peft's format: adapter_config.json and adapter_model.safetensors, with Hugging Face's names.

``PeftModel.from_pretrained`` reads what ``save_adapter`` writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import read_object, write_atomic
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Model, ScalarModel
from tutelage.model.hf_weights import Entry, entries
from tutelage.model.huggingface import OFFSET_KEY
from tutelage.model.lora import TARGETS, LoRALinear, adapters, add_adapters
from tutelage.model.weight_files import opened

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCORE = f"{_PREFIX}score.weight"


def save_adapter(folder: Path, model: Model, *, base: str) -> None:
    """Write the adapters of a model on ``base`` (a folder or hub name), and its head if it has one, for peft.

    CheckpointError if the model has no adapters.
    """
    headed = None if isinstance(model, Decoder) else model
    decoder = model if isinstance(model, Decoder) else model.decoder
    parts = adapters(decoder)
    if not parts:
        raise CheckpointError("this model has no adapters to save")
    tensors: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    targets: set[str] = set()
    for entry, part in _adapted(decoder):
        for module, a, b in zip(_modules(entry), part.a.split(part.r), part.b, strict=True):
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = a
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = _rows(entry, b, (3, entry.heads))
            targets.add(re.split(r"\.\d+\.", module, maxsplit=1)[1])
    if headed:
        tensors[_SCORE] = headed.head.weight
    if isinstance(model, ScalarModel):
        metadata[OFFSET_KEY] = repr(float(model.offset))  # not in the settings: peft warns of unknown ones
    one = next(iter(parts.values()))
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if headed else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": one.r,
        "lora_alpha": one.alpha,
        "lora_dropout": one.dropout,
        "target_modules": sorted(targets),
        "modules_to_save": ["score"] if headed else None,
        "bias": "none",
        "fan_in_fan_out": decoder.config.family == "gpt2",
        "inference_mode": True,
    }
    on_disk = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / WEIGHTS, save(on_disk, metadata=metadata))
    write_atomic(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


@torch.no_grad()
def load_adapter(folder: Path, decoder: Decoder) -> Decoder | ScalarModel:
    """Add what ``save_adapter`` wrote to ``decoder`` in place; returns a ScalarModel on it if the folder has a head.

    Also reads adapters of peft that cover whole matrices of ours. CheckpointError names a missing or damaged file.
    """
    settings = read_object(folder / CONFIG)
    with opened(folder / WEIGHTS) as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    head = tensors.pop(_SCORE, None)
    ours = {
        f"{_PREFIX}{module}": entry.ours for entry in entries(decoder.config, "causal") for module in _modules(entry)
    }
    adapted = {ours[name.partition(".lora_")[0]] for name in tensors}
    add_adapters(
        decoder,
        r=settings["r"],
        alpha=settings["lora_alpha"],
        dropout=settings["lora_dropout"],
        targets=tuple(target for target in TARGETS if any(f".{target}." in name for name in adapted)),
    )
    for entry, part in _adapted(decoder):
        for module, a, b in zip(_modules(entry), part.a.split(part.r), part.b, strict=True):
            a.copy_(tensors[f"{_PREFIX}{module}.lora_A.weight"])
            b.copy_(_rows(entry, tensors[f"{_PREFIX}{module}.lora_B.weight"], (entry.heads, 3)))
    if head is None:
        return decoder
    if len(head) != 1:
        raise CheckpointError(f"{folder} holds a classifier of {len(head)} labels: a reward model is needed here")
    model = ScalarModel(decoder)
    model.head.weight.copy_(head)
    model.offset.fill_(float(metadata.get(OFFSET_KEY, 0.0)))
    return model


def _adapted(decoder: Decoder) -> list[tuple[Entry, LoRALinear]]:
    """The adapted matrices with their places in the files of Hugging Face."""
    parts = {f"{name}.weight": part for name, part in adapters(decoder).items()}
    return [(entry, parts[entry.ours]) for entry in entries(decoder.config, "causal") if entry.ours in parts]


def _modules(entry: Entry) -> list[str]:
    return [name.removesuffix(".weight") for name in entry.theirs]


def _rows(entry: Entry, b: Tensor, order: tuple[int, int]) -> Tensor:
    """B with its rows, the matrix's outputs, from ``order`` transposed: GPT-NeoX keeps q, k and v per head."""
    return b.unflatten(0, (*order, -1)).transpose(0, 1).flatten(0, 2) if entry.heads else b
