"""Checkpoints in the Hugging Face layout: config.json, model.safetensors or shards, generation_config.json. Never pickle."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tutelage.errors import CheckpointError
from tutelage.files import read_object
from tutelage.model import huggingface as hf
from tutelage.model import weight_files as files
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Classifier, Model, ScalarModel
from tutelage.model.hf_weights import entries, output_name, weights_to_hf

CONFIG, GENERATION = "config.json", "generation_config.json"

# Masks and frequencies in older files; they are computed, not learned.
_COMPUTED = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$")


def param_count(model: nn.Module) -> int:
    """The number of weights; shared ones count once."""
    return sum(weight.numel() for weight in model.parameters())


def save_model(
    folder: Path | str,
    model: Model,
    *,
    bos_id: int | None = None,
    end_id: int | Sequence[int] | None = None,
    pad_id: int | None = None,
    max_shard_bytes: int = files.MAX_SHARD_BYTES,
) -> None:
    """Write ``model`` so that transformers, vLLM and llama.cpp can read it. Not atomic: see ``write_folder``.

    A Classifier becomes the family's sequence classifier with its labels; what it reads goes into config.json as
    ``tutelage_format``. A ScalarModel becomes such a classifier with one label. Such a classifier has no bias, so the centring
    offset goes into config.json as ``tutelage_score_offset``: transformers' scores are ours plus that number, and rankings
    are the same. Give ``pad_id`` for both: transformers finds the last real token of a padded batch by it.

    ``end_id`` (end of turn; one or several) becomes eos_token_id. Weights above ``max_shard_bytes`` are split into shards.
    """
    config, kind = model_config(model), _kind_of(model)
    ends = [end_id] if isinstance(end_id, int) else list(end_id or ())
    eos = ends[0] if len(ends) == 1 else ends or None
    ids = {"bos_token_id": bos_id, "eos_token_id": eos, "pad_token_id": pad_id}
    dtype = (model if isinstance(model, Decoder) else model.decoder).embed.weight.dtype
    settings = hf.config_to_hf(config) | ids | {"torch_dtype": str(dtype).removeprefix("torch.")}
    settings["architectures"] = [hf.class_of(config.family, kind)]
    texts = {CONFIG: settings}
    if isinstance(model, Decoder):
        texts[GENERATION] = {name: value for name, value in ids.items() if value is not None}
    else:
        names = model.labels if isinstance(model, Classifier) and model.labels else ("score",)
        settings |= {"id2label": {str(i): name for i, name in enumerate(names)}}
        settings |= {"label2id": {name: i for i, name in enumerate(names)}}
    if isinstance(model, ScalarModel):
        settings |= {"problem_type": "regression", hf.OFFSET_KEY: float(model.offset)}
    if isinstance(model, Classifier):
        settings[hf.FORMAT_KEY] = model.format
        if model.labels:  # transformers refuses it where one output scores choices
            settings["problem_type"] = "single_label_classification"
    files.write_folder(
        Path(folder),
        weights_to_hf(config, kind, model.state_dict()),
        {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in texts.items()},
        max_shard_bytes,
    )


def load_model(folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Model:
    """Read a checkpoint folder of ours or of Hugging Face, in eval mode. Draws no random numbers.

    ``dtype`` None keeps the file's type (the most common one); a head is always fp32. Tensors are
    read one at a time into place, so the weights are in memory once.

    CheckpointError names what is wrong: a file or tensor is missing, unexpected, damaged or of another shape; weights are
    pickled or quantised; config.json asks for what the decoder cannot do. Values are not checked.
    """
    folder = Path(folder)
    kind, config, offset = _describe(folder)
    with undrawn():
        decoder = Decoder(config)
        model = _with_head(decoder, kind, folder)
    shapes = model.state_dict()
    wanted = weights_to_hf(config, kind, shapes)
    stored = _check_tensors(folder, config, kind, files.find_weights(folder), wanted)
    dtype = dtype or _most_common_dtype(stored)
    state: dict[str, Tensor] = {}
    for entry in entries(config, kind):
        kept = torch.float32 if entry.ours == "head.weight" else dtype
        state[entry.ours] = torch.empty(shapes[entry.ours].shape, dtype=kept, device=device)
        for name, view in entry.views(state[entry.ours]).items():
            files.read_into(stored[name], view)
    if kind == "scalar":
        state["offset"] = torch.tensor(offset, device=device)
    model.load_state_dict(state, assign=True)
    model.requires_grad_(True)
    return model.eval()


def _kind_of(model: Model) -> hf.Kind:
    return "causal" if isinstance(model, Decoder) else "scalar" if isinstance(model, ScalarModel) else "classifier"


def _with_head(decoder: Decoder, kind: hf.Kind, folder: Path) -> Model:
    """The model that a folder describes, on ``decoder``."""
    if kind == "causal":
        return decoder
    if kind == "scalar":
        return ScalarModel.from_decoder(decoder)
    settings = read_config(folder)
    format = hf.format_of(settings)
    decoder.unembed = None
    return Classifier(decoder, format, () if format == "choice" else hf.labels_of(settings))


@contextmanager
def undrawn() -> Iterator[None]:
    """Models made in this block have shapes and no numbers."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn: on the meta device ``normal_`` imports torch._dynamo, which takes 0.8 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return None if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def load_decoder(folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Decoder:
    """``load_model`` for a language model; CheckpointError if the folder holds another kind."""
    require_kind(Path(folder), "causal")
    return cast(Decoder, load_model(folder, device, dtype))


def load_scalar(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> ScalarModel:
    """``load_model`` for a reward model or value net; CheckpointError if the folder holds another kind."""
    require_kind(Path(folder), "scalar")
    return cast(ScalarModel, load_model(folder, device, dtype))


def load_classifier(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Classifier:
    """``load_model`` for a classifier; CheckpointError if the folder holds another kind."""
    require_kind(Path(folder), "classifier")
    return cast(Classifier, load_model(folder, device, dtype))


_CALLED = {"causal": "a language model", "scalar": "a reward model", "classifier": "a classifier"}


def require_kind(folder: Path, kind: hf.Kind) -> None:
    """CheckpointError if config.json describes another kind."""
    held = _describe(folder)[0]
    if held != kind:
        raise CheckpointError(f"{folder} holds {_CALLED[held]}: {_CALLED[kind]} is needed here")


def model_config(model: Model) -> ModelConfig:
    """The settings of the trunk."""
    return model.config if isinstance(model, Decoder) else model.decoder.config


def read_config(folder: Path) -> dict[str, Any]:
    """The raw config.json of a model folder. CheckpointError if it is missing or not a JSON object."""
    try:
        return read_object(folder / CONFIG)
    except FileNotFoundError:
        problem = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
        if (folder / "adapter_config.json").exists():
            problem = "holds only adapters, which need their base model"
        raise CheckpointError(f"{folder} {problem}: give a model folder{_such_as(folder)}") from None


def _such_as(folder: Path) -> str:
    """For the error message: the newest model below the folder of a stage or of a whole run."""
    below = [*folder.glob(f"checkpoint/{CONFIG}"), *folder.glob(f"*/checkpoint/{CONFIG}")]
    return f", such as {max(below, key=lambda path: path.stat().st_mtime_ns).parent}" if below else ""


def context_of(folder: Path) -> int:
    """The longest sequence that a checkpoint's model accepts [tokens], from config.json alone."""
    return _describe(folder)[1].max_position_embeddings


def _describe(folder: Path) -> tuple[hf.Kind, ModelConfig, float]:
    """What config.json says: kind, settings, and a scalar model's offset.

    CheckpointError names the file and the setting.
    """
    settings = read_config(folder)
    try:
        kind, config = hf.kind_of(settings), hf.config_from_hf(settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    return kind, config, float(settings.get(hf.OFFSET_KEY, 0.0))


def _check_tensors(
    folder: Path, config: ModelConfig, kind: hf.Kind, found: Mapping[str, files.Stored], wanted: Mapping[str, Tensor]
) -> dict[str, files.Stored]:
    """The stored tensors under their current names in transformers, if names and shapes are those of ``wanted``."""
    output = output_name(config.family)
    stored = _canonical(found, wanted, output)
    if kind == "causal" and config.tie_embeddings:
        stored.pop(output, None)  # transformers ignores it too
    files.compare_names(folder, stored, wanted.keys())
    for name, tensor in wanted.items():
        at, shape = stored[name], tensor.shape
        if at.shape != shape:
            raise CheckpointError(f"{at.path}: {at.name} is {list(at.shape)}, config.json makes it {list(shape)}")
    return stored


def _canonical(found: Mapping[str, files.Stored], wanted: Mapping[str, object], output: str) -> dict[str, files.Stored]:
    """The first GPT-2 files lack the ``transformer.`` prefix; GPT-NeoX's output layer has had two names."""
    stored = {}
    for name, at in found.items():
        if name == "lm_head.weight":
            stored[output] = at
        elif f"transformer.{name}" in wanted:
            stored[f"transformer.{name}"] = at
        elif name in wanted or not _COMPUTED.search(name):
            stored[name] = at
    return stored


def _most_common_dtype(stored: Mapping[str, files.Stored]) -> torch.dtype:
    numbers: Counter[torch.dtype] = Counter()
    for at in stored.values():
        numbers[at.dtype or torch.float32] += math.prod(at.shape)
    return numbers.most_common(1)[0][0]
