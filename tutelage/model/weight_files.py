"""safetensors files: one ``model.safetensors``, or shards with an index; checked before a tensor is read, never pickled.

Reading copies each tensor, a few rows at a time, into memory that the caller has ready, so loading holds the weights once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import sync_file, sync_folder, temporary_name
from tutelage.model.json_object import read_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""The limit of transformers 4: object stores take such files in one piece."""
_SHARD = re.compile(r"model(-\d+)?-\d{5}-of-\d{5}\.safetensors")
_LEFTOVER = re.compile(
    r"\.(model.*\.safetensors|model\.safetensors\.index\.json|config\.json|generation_config\.json)\.\d+\.tmp"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 32 << 20  # bytes of a tensor that are held twice while it is copied


@dataclass(frozen=True)
class Stored:
    """One tensor in a file. ``dtype`` is None for a type that no weight of ours has (integers, 8-bit floats)."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    kind: str


def find_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by its name on disk: of model.safetensors, or else of the index's shards.

    CheckpointError, naming the file, if there is none or only a pickle, if a file is damaged or cut short, or if a shard
    lacks a tensor that the index puts there, or holds one that the index does not.
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
    for name in (WEIGHTS, INDEX):
        if (folder / name).exists():
            raise CheckpointError(f"{folder / name} is not a file")
    raise CheckpointError(f"{folder} has no {WEIGHTS}")


def _read_shards(folder: Path) -> dict[str, Stored]:
    path = folder / INDEX
    places = read_object(path).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{path} has no weight_map of tensor names to files")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise CheckpointError(f"{path} names {name!r}: shards must be safetensors files in the same folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}, which {INDEX} names: download or copy the missing shard")
    found: dict[str, Stored] = {}
    for name in names:
        shard = _read_header(folder / name)
        wanted = {tensor for tensor, file in places.items() if file == name}
        compare_names(folder / name, shard.keys(), wanted, f", by {INDEX}")
        found |= shard
    return found


def compare_names(
    where: Path, found: Set[str], wanted: Set[str], why: str = "", places: Mapping[str, Stored] | None = None
) -> None:
    """CheckpointError saying which names are missing or left over in ``where``, if any, and in which file the latter are."""
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        if places is not None:
            extra = [f"{name} (in {places[name].path.name})" for name in extra]
        parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has extra", extra)) if names]
        raise CheckpointError(f"{where} {' and '.join(parts)}{why}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: Stored(path, name, tuple(at.get_shape()), _DTYPES.get(at.get_dtype()), at.get_dtype())
            for name, at in slices.items()
        }


def read_into(stored: Stored, target: Tensor) -> None:
    """Fill ``target`` with a tensor's numbers in order: of any type, device and strides, its shape the stored one or finer.

    About 32 MiB (or one row) are held twice at a time. CheckpointError if the stored type is not one of weights.
    """
    if stored.dtype is None:
        raise CheckpointError(
            f"{stored.path}: {stored.name} is stored as {stored.kind}; weights must be F32, F16, BF16 or F64 (not quantised)"
        )
    target = target.detach()
    with _opened(stored.path) as file:
        if not target.dim():
            target.copy_(file.get_tensor(stored.name))
            return
        source = file.get_slice(stored.name)
        finer = stored.shape[0] // max(1, len(target))
        rows = max(1, _CHUNK // max(1, stored.dtype.itemsize * math.prod(target.shape[1:])))
        for start in range(0, len(target), rows):
            part = target[start : start + rows]
            part.copy_(source[start * finer : (start + len(part)) * finer].reshape(part.shape))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; the library checks the header against the file's length. CheckpointError if it is damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None


def write_folder(
    folder: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write weights and small files (name -> content) into a folder; other files in it are kept.

    ``tensors`` become model.safetensors, or shards with an index if they are larger than ``max_shard_bytes`` together.
    Everything is first written in full beside its final name, so an interrupted write leaves the previous checkpoint as it
    was, and the next write clears up after it. Then follow a few renames: shards, under names that were free; small files;
    the index or the single file, which makes the new weights the folder's; and at once the last small file, config.json
    (between these two, for some microseconds, new weights stand beside the old config). Last the previous weights are
    removed. One writer at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan_shards(folder, tensors, max_shard_bytes)
    fills: dict[str, Callable[[Path], object]] = {
        name: partial(_write_tensors, tensors, keys) for name, keys in plan.items()
    }
    single = fills.pop(WEIGHTS, None)
    commit = {INDEX: partial(_write_text, _index(plan, tensors))} if single is None else {WEIGHTS: single}
    small = {name: partial(_write_text, text) for name, text in texts.items()}
    last = {name: small.pop(name) for name in list(small)[-1:]}
    staged: list[tuple[Path, Path]] = []
    try:
        for name, fill in (fills | small | commit | last).items():
            staged.append(_stage(folder / name, fill))
    except BaseException:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise
    for temporary, final in staged:
        os.replace(temporary, final)
        if final.name == INDEX and (folder / WEIGHTS).exists():  # until now a reader took the old single file
            os.replace(folder / WEIGHTS, temporary_name(folder / WEIGHTS))
    sync_folder(folder)
    _clean(folder, {*plan, *commit})


def _plan_shards(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order, each file at most ``limit`` bytes unless a single tensor is larger."""
    if limit < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, not {limit}")
    groups: list[list[str]] = []
    filled = limit
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    attempt = 0
    while (
        True
    ):  # names that no file has: the previous checkpoint's shards must live until the new index names the new ones
        stem = f"model-{attempt}" if attempt else "model"
        names = [f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
        if not any((folder / name).exists() for name in names):
            return dict(zip(names, groups, strict=True))
        attempt += 1


def _index(plan: Mapping[str, list[str]], tensors: Mapping[str, Tensor]) -> str:
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    places = {key: name for name, keys in plan.items() for key in keys}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"


def _write_tensors(tensors: Mapping[str, Tensor], names: list[str], path: Path) -> None:
    part = {name: tensors[name].detach().cpu().contiguous() for name in names}
    save_file(part, path, metadata={"format": "pt"})


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _stage(path: Path, fill: Callable[[Path], object]) -> tuple[Path, Path]:
    """Write a file in full, to the disk, beside its final name: (temporary, final)."""
    temporary = temporary_name(path)
    try:
        fill(temporary)
        sync_file(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary, path


def _clean(folder: Path, current: Set[str]) -> None:
    """Remove the previous checkpoint's weights, and what an interrupted write has left."""
    for path in list(folder.iterdir()):
        weights = path.name in (WEIGHTS, INDEX) or _SHARD.fullmatch(path.name)
        if (weights and path.name not in current) or _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
