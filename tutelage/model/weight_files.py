"""The files of a model folder: JSON, and safetensors in one ``model.safetensors`` or in shards with an index; never pickle.

Reading copies each tensor, a few rows at a time, into memory that the caller has allocated, so loading holds the weights once.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import read_object, sync_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""The limit of transformers 4: object stores accept such files in one piece."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 32 << 20  # bytes of a tensor that are in memory twice while it is copied


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. ``dtype`` is None if ``kind``, the type's name in the file, is not one of weights."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    kind: str


def find_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by its name on disk: of model.safetensors, or else of the index's shards.

    CheckpointError, naming the file, if there are no weights or only pickled ones, or if a file is damaged or missing.
    """
    if (folder / WEIGHTS).is_file():
        return _read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0]}, pickled weights, which can run code when read and are refused: "
            f"convert them to {WEIGHTS}, for example with save_pretrained of transformers"
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS}")


def _read_shards(folder: Path) -> dict[str, Stored]:
    places = read_object(folder / INDEX).get("weight_map")
    if not places:
        raise CheckpointError(f"{folder / INDEX} has no weight_map of tensor names to files")
    found: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}, which {INDEX} names: download or copy the missing shard")
        found |= _read_header(folder / name)
    return found


def compare_names(where: Path, found: Mapping[str, Stored], wanted: Set[str]) -> None:
    """CheckpointError if tensors are missing in ``where`` or unexpected."""
    missing = sorted(wanted - found.keys())
    extra = [f"{name} (in {found[name].path.name})" for name in sorted(found.keys() - wanted)]
    parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has extra", extra)) if names]
    if parts:
        raise CheckpointError(f"{where} {' and '.join(parts)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file."""
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Stored(path, name, tuple(at.get_shape()), _DTYPES.get(at.get_dtype()), at.get_dtype())
            for name, at in slices.items()
        }


def read_into(stored: Stored, target: Tensor) -> None:
    """Fill ``target``, of any type, device and strides, with a stored tensor's numbers in order.

    ``target`` has the stored shape, or one that splits the first axis. About 32 MiB (or one row) are in memory twice at a
    time. CheckpointError if the stored type is not one of weights.
    """
    if stored.dtype is None:
        raise CheckpointError(
            f"{stored.path}: {stored.name} is stored as {stored.kind}; weights must be F32, F16, BF16 or F64"
        )
    target = target.detach()
    with opened(stored.path) as file:
        source = file.get_slice(stored.name)
        finer = stored.shape[0] // max(1, len(target))
        rows = max(1, _CHUNK // max(1, stored.dtype.itemsize * math.prod(target.shape[1:])))
        for start in range(0, len(target), rows):
            part = target[start : start + rows]
            part.copy_(source[start * finer : (start + len(part)) * finer].reshape(part.shape))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file. CheckpointError if it is damaged: the library checks the header against the length."""
    try:
        path.open("rb").close()  # safe_open calls a file that may not be read missing
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None


def write_folder(
    folder: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write weights and small files (name -> content) into a folder, and flush them to the disk.

    ``tensors`` become model.safetensors, or shards with an index if they exceed ``max_shard_bytes`` together; they replace
    the folder's previous weights. This is not atomic: write into a temporary folder and rename it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for previous in folder.glob("model*.safetensors*"):
        previous.unlink()
    groups = _shards(tensors, max_shard_bytes)
    count, texts = len(groups), dict(texts)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)] if count > 1 else [WEIGHTS]
    for name, group in zip(names, groups, strict=True):
        part = {key: tensors[key].detach().cpu().contiguous() for key in group}
        save_file(part, folder / name, metadata={"format": "pt"})
    if count > 1:
        places = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        total = sum(tensor.nbytes for tensor in tensors.values())
        texts[INDEX] = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in (*names, *texts):
        sync_file(folder / name)


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """The names of the tensors of each file; a file exceeds ``limit`` bytes only if it holds a single tensor."""
    groups: list[list[str]] = []
    filled = limit
    for name, tensor in tensors.items():
        if filled + tensor.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += tensor.nbytes
    return groups
