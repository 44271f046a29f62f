"""Checkpoints in the Hugging Face layout: config.json, model.safetensors, generation_config.json. Never pickle."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tutelage.errors import CheckpointError
from tutelage.model import huggingface as hf
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel

WEIGHTS, CONFIG, GENERATION = "model.safetensors", "config.json", "generation_config.json"
# Masks and frequencies that older files carry along; they are computed, not learned.
_COMPUTED = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def param_count(model: nn.Module) -> int:
    """The number of weights, shared ones once."""
    return sum(weight.numel() for weight in model.parameters())


def save_model(
    folder: Path | str,
    model: Decoder | ScalarModel,
    *,
    bos_id: int | None = None,
    end_id: int | None = None,
    pad_id: int | None = None,
) -> None:
    """Write ``model`` so that transformers, vLLM and llama.cpp can read it. Other files in the folder stay.

    A ScalarModel is written as the family's sequence classifier with one label, without an output layer. Such a
    classifier has no bias, so the centring offset stands in config.json as ``tutelage_score_offset``: transformers'
    scores are ours plus that number, and every ranking is the same. Give ``pad_id`` for a ScalarModel: transformers
    finds the last real token of a padded batch by it.

    ``end_id`` (end of turn) becomes eos_token_id. Each file appears whole or not at all, config.json last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, kind = model_config(model), kind_of(model)
    weight = next(model.parameters())
    ids = {"bos_token_id": bos_id, "eos_token_id": end_id, "pad_token_id": pad_id}
    settings = hf.config_to_hf(config) | ids | {"torch_dtype": str(weight.dtype).removeprefix("torch.")}
    if isinstance(model, ScalarModel):
        settings |= {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
        settings |= {"architectures": [hf.scalar_class(config.family)], hf.OFFSET_KEY: float(model.offset)}
    else:
        settings["architectures"] = [hf.causal_class(config.family)]
    tensors = {name: x.detach().cpu() for name, x in hf.weights_to_hf(config, kind, model.state_dict()).items()}
    _write(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    if kind == "causal":
        _write_json(folder / GENERATION, {name: value for name, value in ids.items() if value is not None})
    _write_json(folder / CONFIG, settings)


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Decoder | ScalarModel:
    """Read a checkpoint folder of ours or of Hugging Face; ``dtype`` None keeps the file's. In eval mode.

    Draws no random number. CheckpointError, naming what is wrong, if a file or tensor is missing, left over, damaged or
    of another shape, if the weights are pickled, or if config.json asks for what the decoder cannot do.
    """
    folder = Path(folder)
    settings = read_config(folder)
    try:
        kind, config = hf.kind_of(settings), hf.config_from_hf(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    path = _weights_file(folder)
    with torch.device("meta"):
        decoder = Decoder(config)
        model = ScalarModel.from_decoder(decoder) if kind == "scalar" else decoder
    tensors = _read_tensors(path, config, kind, hf.weights_to_hf(config, kind, model.state_dict()), device, dtype)
    state = hf.weights_from_hf(config, kind, tensors)
    if kind == "scalar":
        state["offset"] = torch.tensor(float(settings.get(hf.OFFSET_KEY, 0.0)), device=device)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(True)
    return model.eval()


def load_decoder(folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """``load_model`` for a language model; CheckpointError when the folder holds a reward model."""
    model = load_model(folder, device, dtype)
    if not isinstance(model, Decoder):
        raise CheckpointError(f"{folder} holds a reward model: a language model is needed here")
    return model


def load_scalar(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> ScalarModel:
    """``load_model`` for a reward model or value net; CheckpointError when the folder holds a language model."""
    model = load_model(folder, device, dtype)
    if not isinstance(model, ScalarModel):
        raise CheckpointError(f"{folder} holds a language model: a reward model is needed here")
    return model


def model_config(model: Decoder | ScalarModel) -> ModelConfig:
    """The settings of the trunk."""
    return model.config if isinstance(model, Decoder) else model.decoder.config


def kind_of(model: Decoder | ScalarModel) -> hf.Kind:
    """Which of the two a model is, in the words of ``huggingface``."""
    return "scalar" if isinstance(model, ScalarModel) else "causal"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, as it stands. CheckpointError if it is missing or no JSON object."""
    path = folder / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
        raise CheckpointError(f"{folder} {problem}: give a model folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(settings).__name__}")
    return settings


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / f"{WEIGHTS}.index.json").is_file():
        raise CheckpointError(f"{folder} holds sharded weights, which are not read yet: save them as one {WEIGHTS}")
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0]}, pickled weights, which can run code when read and are refused: "
            f"convert them to {WEIGHTS}, for example with save_pretrained of transformers"
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS}")


def _read_tensors(
    path: Path,
    config: ModelConfig,
    kind: hf.Kind,
    wanted: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, after its header has been held against the names and shapes that we need."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = _canonical(list(file.keys()), wanted, config)
            missing, extra = sorted(wanted.keys() - names.keys()), sorted(names.keys() - wanted.keys())
            output = hf.output_name(config.family)
            if kind == "causal" and config.tie_embeddings and output in extra:
                extra.remove(output)
                if not torch.equal(file.get_tensor(output), file.get_tensor(names[hf.embedding_name(config.family)])):
                    raise CheckpointError(
                        f"{path}: {output} differs from the embedding, but config.json says tie_word_embeddings"
                    )
            if missing or extra:
                found = [
                    f"{what} {_some(which)}" for what, which in (("lacks", missing), ("has extra", extra)) if which
                ]
                raise CheckpointError(f"{path} {' and '.join(found)}")
            for name, tensor in wanted.items():
                shape = file.get_slice(names[name]).get_shape()
                if list(shape) != list(tensor.shape):
                    expected = list(tensor.shape)
                    raise CheckpointError(f"{path}: {name} is {list(shape)}, config.json makes it {expected}")
            # Copied: the file's own memory is mapped, and would go bad under us if someone truncated the file.
            return {name: file.get_tensor(names[name]).to(device=device, dtype=dtype, copy=True) for name in wanted}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from None


def _canonical(found: list[str], wanted: Mapping[str, Tensor], config: ModelConfig) -> dict[str, str]:
    """Name as transformers writes it now -> name in the file. GPT-2's first files lack the ``transformer.`` prefix."""
    names = {}
    for name in found:
        if name in wanted or name == hf.output_name(config.family):
            names[name] = name
        elif f"transformer.{name}" in wanted:
            names[f"transformer.{name}"] = name
        elif not _COMPUTED.search(name):
            names[name] = name
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Temporary file, fsync, rename, fsync of the folder: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fill(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # some file systems have no fsync for folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
