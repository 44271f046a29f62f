"""Adapters as peft keeps them: adapter_config.json and adapter_model.safetensors, under Hugging Face's names.

save_adapter(folder, model, base="org/name")        PeftModel.from_pretrained(AutoModelForCausalLM(base), folder) reads it
load_adapter(folder, decoder)                       an adapter of ours or of peft, put beside the layers of its base model
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import write_atomic
from tutelage.model import huggingface as hf
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.model.json_object import read_object
from tutelage.model.lora import TARGETS, LoRALinear, adapters, add_adapters

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SCORE = f"{_PREFIX}score.weight"
_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<which>[AB])\.weight$")
# peft's settings that change the arithmetic in a way that ours does not know, and what they may be.
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
    """Write the model's adapters (and its head, where it is a ScalarModel) for peft. ``base``: what they stand on.

    Raises CheckpointError where the model has none.
    """
    decoder = model if isinstance(model, Decoder) else model.decoder
    parts = adapters(decoder)
    if not parts:
        raise CheckpointError("this model has no adapters to save")
    tensors: dict[str, Tensor] = {}
    targets: set[str] = set()
    for entry in _adapted(decoder, parts):
        part = parts[entry.ours.removesuffix(".weight")]
        b = _their_rows(entry, torch.cat([b.detach() for b in part.b]))
        lows = part.a.detach().split(part.r)
        for name, a, rows in zip(entry.theirs, lows, b.split([len(b) for b in part.b]), strict=True):
            module = name.removesuffix(".weight")
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = a.float().cpu().contiguous()
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = rows.float().cpu().contiguous()
            targets.add(re.split(r"\.\d+\.", module, maxsplit=1)[1])
    one = next(iter(parts.values()))
    scalar = isinstance(model, ScalarModel)
    if isinstance(model, ScalarModel):
        tensors[_SCORE] = model.head.weight.detach().float().cpu().contiguous()
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
    metadata = {"format": "pt"} | ({hf.OFFSET_KEY: repr(float(model.offset))} if isinstance(model, ScalarModel) else {})
    write_atomic(folder / WEIGHTS, save(tensors, metadata=metadata))
    write_atomic(folder / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def load_adapter(folder: Path, decoder: Decoder) -> Decoder | ScalarModel:
    """Put the folder's adapters beside the layers of ``decoder``, in place; with a head a ScalarModel on it.

    Parts of a fused matrix that the file has no adapter for get one that does nothing yet. CheckpointError names a file that is
    missing or damaged, a setting that changes the arithmetic and is not honoured, and a tensor that does not fit the model.
    """
    settings = read_adapter_config(folder)
    tensors, metadata = _read(folder / WEIGHTS)
    found = {(m["module"], m["which"]): tensor for name, tensor in tensors.items() if (m := _TENSOR.match(name))}
    other = [name for name in tensors if not _TENSOR.match(name) and name != _SCORE]
    if other:
        raise CheckpointError(f"{folder / WEIGHTS} holds {other[0]}, which is no LoRA of a layer's matrix")
    plan = {
        name.removesuffix(".weight"): entry for entry in hf.entries(decoder.config, "causal") for name in entry.theirs
    }
    targets = {target for module, _ in found for target in TARGETS if _ours(plan, module).endswith(f".{target}")}
    strange = [module for module, _ in found if not _ours(plan, module).endswith(tuple(f".{t}" for t in TARGETS))]
    if strange or not targets:
        names = ", ".join(TARGETS)
        raise CheckpointError(
            f"{folder}: adapter of {strange[0] if strange else 'nothing'}: only those of {names} are read"
        )
    add_adapters(
        decoder, r=settings["r"], alpha=settings["lora_alpha"], dropout=settings.get("lora_dropout") or 0.0,
        targets=tuple(target for target in TARGETS if target in targets),
    )  # fmt: skip
    parts = adapters(decoder)
    for entry in _adapted(decoder, parts):
        _fill(folder, parts[entry.ours.removesuffix(".weight")], entry, found)
    if _SCORE not in tensors:
        return decoder
    model = ScalarModel(decoder)
    if list(tensors[_SCORE].shape) != list(model.head.weight.shape):
        raise CheckpointError(
            f"{folder / WEIGHTS}: {_SCORE} is {list(tensors[_SCORE].shape)}: a reward model has one label"
        )
    model.head.weight.data.copy_(tensors[_SCORE])
    model.offset.fill_(float(metadata.get(hf.OFFSET_KEY, 0.0)))
    return model


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, held against what is honoured."""
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
    for key in ("r", "lora_alpha"):
        if not isinstance(settings.get(key), int | float) or settings[key] <= 0:
            raise CheckpointError(f"{path}: {key} must be a number above 0, found {settings.get(key)!r}")
    return settings


def _adapted(decoder: Decoder, parts: dict[str, LoRALinear]) -> list[hf.Entry]:
    """The table's entries of the adapted matrices."""
    return [entry for entry in hf.entries(decoder.config, "causal") if entry.ours.removesuffix(".weight") in parts]


def _their_rows(entry: hf.Entry, b: Tensor) -> Tensor:
    """B's rows, which are the matrix's outputs, in their order (GPT-NeoX keeps q, k and v together head by head)."""
    return b.unflatten(0, (3, entry.heads, -1)).transpose(0, 1).flatten(0, 2) if entry.heads else b


def _our_rows(entry: hf.Entry, b: Tensor) -> Tensor:
    return b.unflatten(0, (entry.heads, 3, -1)).transpose(0, 1).flatten(0, 2) if entry.heads else b


def _ours(plan: dict[str, hf.Entry], module: str) -> str:
    return plan[module].ours.removesuffix(".weight") if module in plan else ""


@torch.no_grad()
def _fill(folder: Path, part: LoRALinear, entry: hf.Entry, found: dict[tuple[str, str], Tensor]) -> None:
    for name, a, b in zip(entry.theirs, part.a.split(part.r), part.b, strict=True):
        module = name.removesuffix(".weight")
        for which, ours in (("A", a), ("B", b)):
            theirs = found.get((module, which))
            if theirs is None:
                continue
            theirs = _our_rows(entry, theirs) if which == "B" else theirs
            if theirs.shape != ours.shape:
                raise CheckpointError(
                    f"{folder / WEIGHTS}: {module}.lora_{which} is {list(theirs.shape)}, the model makes it {list(ours.shape)}"
                )
            ours.copy_(theirs)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. The centring offset stands in the latter: peft would warn of a setting that it does not know."""
    if not path.exists():
        raise CheckpointError(f"{path.parent} has no {WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
