"""The files of a model folder: JSON, and safetensors in one ``model.safetensors`` or in shards with an index; never pickle.

Reading copies each tensor, a few rows at a time, into memory that the caller has allocated, so loading holds the weights once.
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
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.errors import CheckpointError
from tutelage.files import sync_file, sync_folder, temporary_name

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
"""The limit of transformers 4: object stores accept such files in one piece."""
_SHARD = re.compile(r"model(-\d+)?-\d{5}-of-\d{5}\.safetensors")
_LEFTOVER = re.compile(
    r"\.(model.*\.safetensors|model\.safetensors\.index\.json|config\.json|generation_config\.json)\.\d+\.tmp"
)
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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. FileNotFoundError as usual; CheckpointError if it cannot be read or is not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not JSON
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def find_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by its name on disk: of model.safetensors, or else of the index's shards.

    CheckpointError, naming the file, if there are no weights or only pickled ones, if a file is damaged or cut short, or
    if the tensors of a shard are not those that the index assigns to it.
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
        shard = _read_header(folder / name)
        wanted = {tensor for tensor, file in places.items() if file == name}
        compare_names(folder / name, shard, wanted, f", by {INDEX}")
        found |= shard
    return found


def compare_names(where: Path, found: Mapping[str, Stored], wanted: Set[str], why: str = "") -> None:
    """CheckpointError if tensors are missing in ``where`` or unexpected."""
    missing = sorted(wanted - found.keys())
    extra = [f"{name} (in {found[name].path.name})" for name in sorted(found.keys() - wanted)]
    parts = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("has extra", extra)) if names]
    if parts:
        raise CheckpointError(f"{where} {' and '.join(parts)}{why}")


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
    """Write weights and small files (name -> content) into a folder; other files in it are kept.

    ``tensors`` become model.safetensors, or shards with an index if they exceed ``max_shard_bytes`` together. Every file
    is first written in full under a temporary name, so an interrupted write leaves the previous checkpoint intact, and
    the next write removes its leftovers. The files are then renamed in this order: shards, under unused names; small
    files; the index or the single file, which switches to the new weights; the last small file, config.json (for some
    microseconds the new weights meet the old config). Last, the previous weights are removed. One writer at a time.
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
            staged.append((temporary_name(folder / name), folder / name))
            fill(staged[-1][0])
            sync_file(staged[-1][0])
    except BaseException:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise
    for temporary, final in staged:
        os.replace(temporary, final)
        if final.name == INDEX and (folder / WEIGHTS).exists():  # readers prefer the single file
            os.replace(folder / WEIGHTS, temporary_name(folder / WEIGHTS))
    sync_folder(folder)
    _clean(folder, {*plan, *commit})


def _plan_shards(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> dict[str, list[str]]:
    """File name -> its tensors, in order; a file exceeds ``limit`` bytes only if it holds a single tensor."""
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
    # Unused names: the shards of the previous checkpoint must exist until the new index is in place.
    for stem in chain(["model"], (f"model-{attempt}" for attempt in count(1))):
        names = [f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
        if not any((folder / name).exists() for name in names):
            break
    return dict(zip(names, groups, strict=True))


def _index(plan: Mapping[str, list[str]], tensors: Mapping[str, Tensor]) -> str:
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    places = {key: name for name, keys in plan.items() for key in keys}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"


def _write_tensors(tensors: Mapping[str, Tensor], names: list[str], path: Path) -> None:
    part = {name: tensors[name].detach().cpu().contiguous() for name in names}
    save_file(part, path, metadata={"format": "pt"})


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _clean(folder: Path, current: Set[str]) -> None:
    """Remove the previous checkpoint's weights and the leftovers of interrupted writes."""
    for path in list(folder.iterdir()):
        weights = path.name in (WEIGHTS, INDEX) or _SHARD.fullmatch(path.name)
        if (weights and path.name not in current) or _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
