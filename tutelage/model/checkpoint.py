"""Checkpoints in the Hugging Face layout: config.json, model.safetensors or shards, generation_config.json. Never pickle."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tutelage.errors import CheckpointError
from tutelage.model import huggingface as hf
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.generation_config import CONFIG, GENERATION, GenerationDefaults, generation_to_hf
from tutelage.model.heads import ScalarModel
from tutelage.model.json_object import read_object
from tutelage.model.surprisal import Surprisal
from tutelage.model.weight_files import MAX_SHARD_BYTES, Stored, compare_names, find_weights, read_into, write_folder

READER = "reader"
"""The folder in a reward model's with the language model whose surprisals it reads."""

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
    end_id: int | Sequence[int] | None = None,
    pad_id: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write ``model`` so that transformers, vLLM and llama.cpp can read it. Other files in the folder stay.

    A ScalarModel is written as the family's sequence classifier with one label, without an output layer. Such a
    classifier has no bias, so the centring offset stands in config.json as ``tutelage_score_offset``: transformers'
    scores are ours plus that number, and every ranking is the same. Give ``pad_id`` for a ScalarModel: transformers
    finds the last real token of a padded batch by it. One that reads surprisals has the language model that they are of in
    the folder ``reader``, and a model_type that transformers refuses: it would leave them out and give other scores.

    ``end_id`` (end of turn; one or several) becomes eos_token_id. Weights
    above ``max_shard_bytes`` are cut into shards. Each file appears whole or not at all, config.json last, and an
    interrupted write leaves the previous checkpoint as it was (see ``write_folder``), but for a reader, which is written first.
    """
    config, kind = model_config(model), kind_of(model)
    weight = (model.decoder if isinstance(model, ScalarModel) else model).embed.weight
    ends = () if end_id is None else (end_id,) if isinstance(end_id, int) else tuple(end_id)
    spoken = generation_to_hf(GenerationDefaults(bos_id=bos_id, end_ids=ends, pad_id=pad_id))
    ids = {name: spoken.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = hf.config_to_hf(config) | ids | {"torch_dtype": str(weight.dtype).removeprefix("torch.")}
    reader = model.reader if isinstance(model, ScalarModel) else None
    if isinstance(model, ScalarModel):
        settings |= {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
        settings |= {"architectures": [hf.scalar_class(config.family)], hf.OFFSET_KEY: float(model.offset)}
        settings = hf.with_surprisal(settings) if reader else settings
    else:
        settings["architectures"] = [hf.causal_class(config.family)]
    texts = {GENERATION: spoken} if kind == "causal" else {}
    if reader:
        save_model(
            Path(folder) / READER,
            reader.decoder,
            bos_id=bos_id,
            end_id=end_id,
            pad_id=pad_id,
            max_shard_bytes=max_shard_bytes,
        )
    write_folder(
        Path(folder),
        hf.weights_to_hf(config, kind, model.state_dict(), surprisal=bool(reader)),
        {name: json.dumps(x, indent=2, ensure_ascii=False) + "\n" for name, x in (texts | {CONFIG: settings}).items()},
        max_shard_bytes,
    )


def load_model(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Decoder | ScalarModel:
    """Read a checkpoint folder of ours or of Hugging Face. In eval mode; draws no random number.

    ``dtype`` None keeps the file's type (that of most numbers, where a file mixes several); what only a scorer has is fp32 always.
    Tensors are read one at a time into their places, so the weights are in memory once.

    CheckpointError, naming what is wrong, if a file or tensor is missing, left over, damaged or of another shape, if the
    weights are pickled or quantised, or if config.json asks for what the decoder cannot do. Numbers are not looked at.
    """
    folder = Path(folder)
    kind, config, offset, surprisal = _described(folder)
    reader = _load_reader(folder, config, device, dtype) if surprisal else None
    try:
        with torch.device("meta"):
            decoder = Decoder(config)
            model = ScalarModel.from_decoder(decoder, reader) if kind == "scalar" else decoder
    except RuntimeError as error:  # torch: more bytes than it can count
        raise CheckpointError(f"{folder / CONFIG}: its sizes make no model ({str(error).splitlines()[0]})") from None
    shapes = model.state_dict()
    entries = hf.entries(config, kind, surprisal=surprisal)
    stored = _check_tensors(folder, config, kind, entries, find_weights(folder), shapes)
    dtype = dtype or _usual_dtype(stored)
    state: dict[str, Tensor] = {}
    for entry in entries:
        kept = torch.float32 if entry.ours in ("head.weight", "surprisal") else dtype
        state[entry.ours] = torch.empty(shapes[entry.ours].shape, dtype=kept, device=device)
        for name, view in entry.views(state[entry.ours]).items():
            read_into(stored[name], view)
    if kind == "scalar":
        state["offset"] = torch.tensor(offset, device=device)
    model.load_state_dict(state, assign=True)
    model.requires_grad_(True)
    return model.eval()


def _load_reader(folder: Path, config: ModelConfig, device: torch.device | str, dtype: torch.dtype | None) -> Surprisal:
    decoder = load_decoder(folder / READER, device, dtype)
    for name in ("vocab_size", "max_position_embeddings"):
        theirs, ours = getattr(decoder.config, name), getattr(config, name)
        if theirs != ours:
            raise CheckpointError(f"{folder / READER} has {name} {theirs}, but the scorer that reads it has {ours}")
    return Surprisal(decoder)


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


def require_kind(folder: Path, kind: hf.Kind) -> None:
    """CheckpointError where config.json describes the other of the two kinds, a language model or a reward model."""
    if _described(folder).kind != kind:
        held, wanted = ("a reward model", "a language model")[:: 1 if kind == "causal" else -1]
        raise CheckpointError(f"{folder} holds {held}: {wanted} is needed here")


def model_config(model: Decoder | ScalarModel) -> ModelConfig:
    """The settings of the trunk."""
    return model.config if isinstance(model, Decoder) else model.decoder.config


def kind_of(model: Decoder | ScalarModel) -> hf.Kind:
    """Which of the two a model is, in the words of ``huggingface``."""
    return "scalar" if isinstance(model, ScalarModel) else "causal"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, as it stands. CheckpointError if it is missing or no JSON object."""
    try:
        return read_object(folder / CONFIG)
    except FileNotFoundError:
        problem = f"has no {CONFIG}" if folder.is_dir() else "does not exist"
        if (folder / "adapter_config.json").exists():
            problem = "holds adapters alone, which stand on another model"
        raise CheckpointError(f"{folder} {problem}: give a model folder{_such_as(folder)}") from None


def _such_as(folder: Path) -> str:
    """The newest model below the folder of a stage or of a whole run, for the error that it is no model itself."""
    below = [*folder.glob(f"checkpoint/{CONFIG}"), *folder.glob(f"*/checkpoint/{CONFIG}")]
    return f", such as {max(below, key=lambda path: path.stat().st_mtime_ns).parent}" if below else ""


def context_of(folder: Path) -> int:
    """The longest sequence that a checkpoint's model takes [tokens], from its config.json alone."""
    return _described(folder).config.max_position_embeddings


class Description(NamedTuple):
    """What a config.json says of a model."""

    kind: hf.Kind
    config: ModelConfig
    offset: float
    """A scorer's; 0 for a language model."""
    surprisal: bool
    """Whether it is a scorer that reads surprisals."""


def _described(folder: Path) -> Description:
    """What a folder's config.json says. CheckpointError names the file and the setting."""
    settings, surprisal = hf.without_surprisal(read_config(folder))
    try:
        kind, config = hf.kind_of(settings), hf.config_from_hf(settings)
        if surprisal and kind != "scalar":
            raise CheckpointError(f"model_type {hf.SURPRISAL!r} is that of reward models, not of {kind} ones")
        return Description(kind, config, _offset(settings) if kind == "scalar" else 0.0, surprisal)
    except CheckpointError as error:
        said = str(error)
        raise CheckpointError(
            f"{folder / CONFIG}{said.removeprefix(CONFIG) if said.startswith(CONFIG) else f': {said}'}"
        ) from None


def _offset(settings: Mapping[str, Any]) -> float:
    value = settings.get(hf.OFFSET_KEY, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e30:
        raise CheckpointError(f"{hf.OFFSET_KEY} must be a number, not {value!r}")
    return float(value)


def _check_tensors(
    folder: Path,
    config: ModelConfig,
    kind: hf.Kind,
    entries: Sequence[hf.Entry],
    found: dict[str, Stored],
    state: Mapping[str, Tensor],
) -> dict[str, Stored]:
    """The stored tensors by the names that transformers writes now, held against the names and shapes that we need."""
    wanted: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        wanted |= entry.shapes(state[entry.ours])
    output, embedding = hf.output_name(config.family), hf.embedding_name(config.family)
    stored = _canonical(found, wanted, output)
    tied = stored.pop(output, None) if kind == "causal" and config.tie_embeddings else None
    compare_names(folder, stored.keys(), wanted.keys(), places=stored)
    for name, shape in wanted.items():
        if stored[name].shape != shape:
            at = stored[name]
            raise CheckpointError(f"{at.path}: {at.name} is {list(at.shape)}, config.json makes it {list(shape)}")
    if tied is not None and not _equal(tied, stored[embedding]):
        raise CheckpointError(
            f"{tied.path}: {tied.name} differs from the embedding, but config.json says tie_word_embeddings"
        )
    return stored


def _canonical(found: Mapping[str, Stored], wanted: Mapping[str, object], output: str) -> dict[str, Stored]:
    """GPT-2's first files lack the ``transformer.`` prefix; GPT-NeoX's output layer has had two names."""
    names = {}
    for name, at in found.items():
        if name == "lm_head.weight":
            names[output] = at
        elif f"transformer.{name}" in wanted:
            names[f"transformer.{name}"] = at
        elif name in wanted or not _COMPUTED.search(name):
            names[name] = at
    return names


def _equal(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape:
        return False
    tensors = [torch.empty(at.shape, dtype=at.dtype or torch.float32) for at in (one, other)]
    for at, tensor in zip((one, other), tensors, strict=True):
        read_into(at, tensor)
    return torch.equal(*tensors)


def _usual_dtype(stored: Mapping[str, Stored]) -> torch.dtype:
    numbers: Counter[torch.dtype] = Counter()
    for at in stored.values():
        numbers[at.dtype or torch.float32] += math.prod(at.shape)
    return numbers.most_common(1)[0][0]
