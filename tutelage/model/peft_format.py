"""Adapters in peft's format: adapter_config.json and adapter_model.safetensors, with Hugging Face's names.

``PeftModel.from_pretrained`` reads what ``save_adapter`` writes; ``load_adapter`` reads adapters of ours and of peft.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import write_atomic
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.model.hf_weights import Entry, entries
from tutelage.model.huggingface import OFFSET_KEY
from tutelage.model.lora import TARGETS, LoRALinear, adapters, add_adapters
from tutelage.model.weight_files import opened, read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCORE = f"{_PREFIX}score.weight"
_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<which>[AB])\.weight$")
# peft's settings that change the arithmetic in a way that we do not compute, with the only values that we accept.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "target_parameters": ([], None),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
}


def save_adapter(folder: Path, model: Decoder | ScalarModel, *, base: str) -> None:
    """Write the adapters of a model on ``base`` (a folder or hub name), and the head of a ScalarModel, for peft.

    CheckpointError if the model has no adapters.
    """
    scalar = model if isinstance(model, ScalarModel) else None
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
    if scalar:
        tensors[_SCORE] = scalar.head.weight
        metadata[OFFSET_KEY] = repr(float(scalar.offset))  # not in the settings: peft warns of unknown ones
    one = next(iter(parts.values()))
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": one.r,
        "lora_alpha": one.alpha,
        "lora_dropout": one.dropout,
        "target_modules": sorted(targets),
        "modules_to_save": ["score"] if scalar else None,
        "bias": "none",
        "fan_in_fan_out": decoder.config.family == "gpt2",
        "inference_mode": True,
    }
    on_disk = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / WEIGHTS, save(on_disk, metadata=metadata))
    write_atomic(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def load_adapter(folder: Path, decoder: Decoder) -> Decoder | ScalarModel:
    """Add the folder's adapters to ``decoder`` in place; returns a ScalarModel on it if the folder has a head.

    Parts of a fused matrix without an adapter in the file get a fresh one, which changes nothing. CheckpointError names a
    missing or damaged file, a setting that changes the arithmetic and is not honoured, or a tensor that does not fit.
    """
    settings = _read_settings(folder)
    tensors, metadata = _read_tensors(folder / WEIGHTS)
    head = tensors.pop(_SCORE, None)
    ours = {module: entry.ours for entry in entries(decoder.config, "causal") for module in _modules(entry)}
    targets, found = set(), {}
    for name, tensor in tensors.items():
        match = _TENSOR.match(name)
        module = match["module"] if match else name
        target = ours.get(module, "").removesuffix(".weight").split(".", 2)[-1]
        if match is None or target not in TARGETS:
            raise CheckpointError(f"{folder / WEIGHTS}: {module} is not supported: only LoRA of {', '.join(TARGETS)}")
        targets.add(target)
        found[module, match["which"]] = tensor
    add_adapters(
        decoder,
        r=settings["r"],
        alpha=settings["lora_alpha"],
        dropout=settings.get("lora_dropout") or 0.0,
        targets=tuple(target for target in TARGETS if target in targets),
    )
    for entry, part in _adapted(decoder):
        _fill(folder, part, entry, found)
    if head is None:
        return decoder
    model = ScalarModel(decoder)
    if head.shape != model.head.weight.shape:
        raise CheckpointError(f"{folder / WEIGHTS}: {_SCORE} is {list(head.shape)}: a reward model has one label")
    model.head.weight.data.copy_(head)
    model.offset.fill_(float(metadata.get(OFFSET_KEY, 0.0)))
    return model


def _read_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json. CheckpointError names a setting that is not honoured."""
    path = folder / CONFIG
    try:
        settings = read_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {CONFIG}: give an adapter's folder") from None
    for key, allowed in _ONLY.items():
        if settings.get(key, allowed[-1]) not in allowed:
            raise CheckpointError(f"{path}: {key}={settings[key]!r} is not supported: it must be {allowed[0]!r}")
    if set(settings.get("modules_to_save") or ()) - {"score"}:
        raise CheckpointError(f"{path}: modules_to_save={settings['modules_to_save']} is not supported: only score is")
    return settings


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata."""
    with opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _adapted(decoder: Decoder) -> list[tuple[Entry, LoRALinear]]:
    """The adapted matrices with their places in the files of Hugging Face."""
    parts = {f"{name}.weight": part for name, part in adapters(decoder).items()}
    return [(entry, parts[entry.ours]) for entry in entries(decoder.config, "causal") if entry.ours in parts]


def _modules(entry: Entry) -> list[str]:
    return [name.removesuffix(".weight") for name in entry.theirs]


def _rows(entry: Entry, b: Tensor, order: tuple[int, int]) -> Tensor:
    """B with its rows, the matrix's outputs, from ``order`` transposed: GPT-NeoX keeps q, k and v per head."""
    return b.unflatten(0, (*order, -1)).transpose(0, 1).flatten(0, 2) if entry.heads else b


@torch.no_grad()
def _fill(folder: Path, part: LoRALinear, entry: Entry, found: dict[tuple[str, str], Tensor]) -> None:
    for module, a, b in zip(_modules(entry), part.a.split(part.r), part.b, strict=True):
        for which, ours in (("A", a), ("B", b)):
            theirs = found.get((module, which))
            if theirs is None:
                continue
            theirs = _rows(entry, theirs, (entry.heads, 3)) if which == "B" else theirs
            if theirs.shape != ours.shape:
                shapes = f"{list(theirs.shape)}, the model makes it {list(ours.shape)}"
                raise CheckpointError(f"{folder / WEIGHTS}: {module}.lora_{which} is {shapes}")
            ours.copy_(theirs)
