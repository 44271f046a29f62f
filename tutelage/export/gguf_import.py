"""A GGUF file as a checkpoint folder: weights, settings, tokenizer, chat template.

    tutelage import assistant.gguf --out assistant

Quantised tensors are dequantised by the gguf package, a few rows at a time, into the one model that is written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf_settings import read_settings
from tutelage.export.gguf_tensors import EMBEDDING, FREQUENCIES, OUTPUT, entries
from tutelage.export.gguf_tokenizer_import import Found, read_tokenizer
from tutelage.files import atomic_folder, write_atomic
from tutelage.model.checkpoint import param_count, save_model, undrawn
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.weight_files import Stored, compare_names
from tutelage.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf.gguf_reader import GGUFReader, ReaderTensor

Dtype = Literal["auto", "fp32", "bf16"]
_CHUNK = 8 << 20  # numbers that are dequantised at a time


def import_gguf(file: Path, out: Path, dtype: Dtype = "auto") -> str:
    """Write a GGUF file's model as a folder, atomically; returns the closing line and notes.

    ``dtype`` of the folder's weights: ``auto`` is bf16 where that loses nothing (a BF16 file), else fp32. CheckpointError
    names what is damaged, missing or not supported; UsageError if ``out`` holds something.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder: choose another --out")
    reader = _opened(file)
    keys, stored = _Keys(reader), {tensor.name: tensor for tensor in reader.tensors}
    try:
        config, found, notes = _described(keys, stored)
        model = _model(file, config, stored, _torch_dtype(dtype, stored))
        with atomic_folder(out) as temporary:
            _write(temporary, model, found)
    except CheckpointError as error:
        said = str(error)
        raise CheckpointError(said if said.startswith(str(file)) else f"{file}: {said}") from None
    size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
    held = "bf16" if model.embed.weight.dtype == torch.bfloat16 else "fp32"
    line = (
        f"{out}: {param_count(model):,} parameters, {size:.1f} MiB, {held} from {_kind(keys, stored)} ({config.family})"
    )
    licence = keys.get("general.license")
    licence = keys.get("general.license.name", licence) if licence == "other" else licence
    line += f", licence {licence}" if licence else ""
    return "\n".join([line, *(f"note: {note}" for note in notes)])


class _Keys(Mapping[str, Any]):
    """A file's keys; a value is made when it is asked for, since lists of tokens take seconds."""

    def __init__(self, reader: GGUFReader) -> None:
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        try:
            return self._fields[key].contents()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{key} is not UTF-8 ({error})") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def require_gguf() -> None:
    """UsageError if the gguf package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise UsageError("reading GGUF files needs the gguf package: pip install 'tutelage[gguf]'") from None


def _opened(file: Path) -> GGUFReader:
    """The file's keys and tensors, which stay on the disk until they are used."""
    require_gguf()
    import gguf

    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise CheckpointError(f"{file} is not a GGUF file")
    try:
        reader = gguf.GGUFReader(file)
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is cut off, damaged, or newer than the gguf package: {error}") from None
    if reader.byte_order == "S":
        raise CheckpointError(f"{file} was written for machines of the other byte order")
    return reader


def _described(keys: Mapping[str, Any], stored: Mapping[str, ReaderTensor]) -> tuple[ModelConfig, Found, list[str]]:
    """What the file's keys say: settings, tokenizer, and notes."""
    try:
        count = keys.get("split.count", 0)
        if count > 1:
            raise CheckpointError(
                f"is part {keys.get('split.no', 0) + 1} of {count}: join the parts with llama.cpp's llama-gguf-split --merge"
            )
        config, notes = _settings(keys, stored)
        found = read_tokenizer(keys, config.vocab_size)
    except (AttributeError, TypeError, ValueError) as error:  # values of other types than these keys have
        raise CheckpointError(f"not the keys of a model ({type(error).__name__}: {error})") from None
    return config, found, notes + found.notes


def _settings(keys: Mapping[str, Any], stored: Mapping[str, ReaderTensor]) -> tuple[ModelConfig, list[str]]:
    """The model's settings, and notes."""
    embedding, output, listed = (stored.get(name) for name in (EMBEDDING, OUTPUT, FREQUENCIES))
    if embedding is None:
        raise CheckpointError(f"the tensor {EMBEDDING} is missing")
    # A copy of the embedding is how llama.cpp ties a GPT-NeoX.
    tied = output is None or (
        output.tensor_type == embedding.tensor_type and np.array_equal(output.data, embedding.data)
    )
    divisors = None if listed is None else torch.from_numpy(_numbers(listed).copy())
    return read_settings(keys, int(embedding.shape[-1]), tied, stored.keys(), divisors)


def _torch_dtype(dtype: Dtype, stored: Mapping[str, ReaderTensor]) -> torch.dtype:
    """The type of the folder's weights."""
    if dtype == "auto":
        kinds = {tensor.tensor_type.name for tensor in stored.values()}
        others = (t for name, t in stored.items() if t.tensor_type.name != "BF16" and name != FREQUENCIES)
        exact = "BF16" in kinds and kinds <= {"BF16", "F32"} and all(_is_bf16(_numbers(tensor)) for tensor in others)
        dtype = "bf16" if exact else "fp32"
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def _is_bf16(numbers: np.ndarray) -> bool:
    return not (numbers.astype(np.float32).view(np.uint32) & 0xFFFF).any()


def _model(file: Path, config: ModelConfig, stored: Mapping[str, ReaderTensor], dtype: torch.dtype) -> Decoder:
    """The decoder with the file's weights. CheckpointError names tensors that are missing, extra, or not as the keys say."""
    if config.num_layers > len(stored):  # a damaged number; making so many layers would take all memory
        raise CheckpointError(f"the file's keys make {config.num_layers} layers, and it has {len(stored)} tensors")
    with undrawn():
        model = Decoder(config)
    shapes = model.state_dict()
    table = entries(config, shapes)
    wanted = {name: view for entry in table for name, view in entry.views(shapes[entry.ours]).items()}
    extra = {FREQUENCIES} | ({OUTPUT} if config.tie_embeddings else set())
    there = {name: Stored(file, name, (), None, "") for name in stored.keys() - extra}
    compare_names(file, there, wanted.keys())
    for name, view in wanted.items():
        shape, other = tuple(reversed(stored[name].shape.tolist())), tuple(view.shape)
        other = (math.prod(other[:3]), *other[3:]) if len(other) > 2 else other  # paired rows
        if shape != other:
            raise CheckpointError(f"{name} is {list(shape)}, the file's keys make it {list(other)}")
    for tensor in {stored[name].tensor_type: stored[name] for name in wanted}.values():
        _numbers(tensor, slice(0, 1))  # refused before the work, not after it
    state = {}
    for entry in table:
        state[entry.ours] = torch.empty(shapes[entry.ours].shape, dtype=dtype)
        for name, view in entry.views(state[entry.ours]).items():
            _read_into(stored[name], view)
    model.load_state_dict(state, assign=True)
    return model


def _read_into(tensor: ReaderTensor, target: Tensor) -> None:
    """Fill ``target``, whose first axis may split the tensor's, with its numbers in order."""
    rows = tensor.data.shape[0] // target.shape[0]
    step = max(1, _CHUNK * target.shape[0] // target.numel()) if tensor.data.ndim > 1 else target.shape[0]
    for start in range(0, target.shape[0], step):
        part = target[start : start + step]
        numbers = _numbers(
            tensor, slice(start * rows, (start + len(part)) * rows) if len(part) < len(target) else slice(None)
        )
        if not np.isfinite(numbers).all():
            raise CheckpointError(f"{tensor.name} holds numbers that are not finite")
        part.copy_(torch.from_numpy(np.array(numbers, dtype=np.float32)).reshape(part.shape))


def _numbers(tensor: ReaderTensor, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a tensor as numbers. CheckpointError if the gguf package cannot dequantise it."""
    import gguf

    try:
        return gguf.dequantize(tensor.data[rows], tensor.tensor_type)
    except (NotImplementedError, gguf.QuantError):
        kind = tensor.tensor_type.name
        raise CheckpointError(
            f"{tensor.name} is of the type {kind}, which the gguf package cannot dequantise"
        ) from None


def _write(folder: Path, model: Decoder, found: Found) -> None:
    """Write model and tokenizer, and read the tokenizer as everything else will."""
    ids = {key: found.names.get(f"{key}_token") for key in ("bos", "pad")}
    save_model(folder, model, bos_id=ids["bos"], end_id=found.end_ids, pad_id=ids["pad"])
    for name, text in found.files(plain=True).items():
        write_atomic(folder / name, text.encode())
    try:
        tokenizer = Tokenizer.load(folder)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(f"{folder}/", "").replace(f"{folder}: ", "")) from None
    if tokenizer.chat is None:  # our own: nothing is put before a text
        tokenizer.save(folder)
        return
    for name, text in found.files().items():
        write_atomic(folder / name, text.encode())


def _kind(keys: Mapping[str, Any], stored: Mapping[str, ReaderTensor]) -> str:
    """What the file calls its quantisation, else the type of most of its numbers."""
    import gguf

    try:
        name = gguf.LlamaFileType(keys["general.file_type"]).name
    except (KeyError, ValueError):
        numbers: Counter[str] = Counter()
        for tensor in stored.values():
            numbers[tensor.tensor_type.name] += tensor.n_elements
        name = numbers.most_common(1)[0][0]
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
