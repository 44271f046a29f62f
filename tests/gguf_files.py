"""GGUF files for tests: imported, and changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutelage.export.gguf_import import import_gguf

gguf = pytest.importorskip("gguf")


def imported(file: Path, out: Path, **settings: Any) -> list[str]:
    """Import a file; returns the notes."""
    closing, *notes = import_gguf(file, out, **settings).splitlines()
    assert closing.startswith(f"{out}: ")
    return [note.removeprefix("note: ") for note in notes]


def rewritten(
    file: Path,
    out: Path,
    *,
    keys: Mapping[str, Any] | None = None,
    change: Callable[[str, np.ndarray], tuple[np.ndarray, Any] | None] = lambda name, data: (data, None),
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The file with other keys (None: without the key), other tensors (None: without it; else data and type), and more of them."""
    reader, changes = gguf.GGUFReader(file), dict(keys or {})
    arch = changes.pop("general.architecture", reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        if name not in changes:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
        elif type(changes[name]) is list:
            writer.add_key_value(name, changes.pop(name), field.types[0], field.types[-1])
    for name, value in changes.items():
        if value is None:
            continue
        kinds = {str: "STRING", bool: "BOOL", int: "UINT32", float: "FLOAT32"}
        writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])
    for tensor in reader.tensors:
        new = change(tensor.name, tensor.data)
        if new is not None:
            data, kind = new
            writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=kind or tensor.tensor_type)
    for name, data in (more or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
