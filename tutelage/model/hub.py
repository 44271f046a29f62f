"""A model by name: a local folder, or a repository on the Hugging Face hub, of which only the needed files are fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tutelage.errors import CheckpointError

NEEDED = (
    "*.json",
    "model.safetensors",
    "model-*.safetensors",
    "reader/model*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""What a model folder can hold. Pickles (*.bin, *.pt), other formats and duplicate weights are not downloaded."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_hub_name(name: str) -> bool:
    """Whether ``name``, which is not a folder, may be that of a repository on the hub rather than a misspelt folder."""
    return bool(_HUB_NAME.fullmatch(name)) and name[0] != "." and not ("/" in name and Path(name).parent.is_dir())


def resolve_model(name: Path | str) -> Path:
    """The folder of a model: ``name`` itself if it is a folder, or else a snapshot of the hub's repository ``name``.

    Hub names need the ``interop`` extra. Files in the hub's cache are used without a network; ``HF_HOME``,
    ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` work as usual.

    CheckpointError if it is neither, if the hub cannot be reached or refuses, or if the repository has no safetensors.
    """
    name, folder = str(name), Path(os.path.expanduser(name))
    if name and folder.is_dir():
        return folder
    if name and folder.exists():
        raise CheckpointError(f"{folder} is a file: give the model's folder")
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise CheckpointError(f"{name!r} is neither a folder nor a name on the Hugging Face hub (like Qwen/Qwen3-0.6B)")
    if not is_hub_name(name):
        raise CheckpointError(f"{folder} does not exist: give a model folder, or a name on the Hugging Face hub")
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise CheckpointError(f"{name} is not a folder; to use the hub, pip install 'tutelage[interop]'") from None
    problems = {  # the first that fits: a gated repository is a RepositoryNotFoundError too
        errors.GatedRepoError: "its terms must be accepted: do that on its page, then log in with `hf auth login`",
        errors.RepositoryNotFoundError: "the hub has no such model (or it is private: log in with `hf auth login`)",
        errors.HFValidationError: "it is not a valid name on the Hugging Face hub",
        errors.LocalEntryNotFoundError: "the Hugging Face hub cannot be reached (and the local cache is incomplete): "
        "give a folder or go online",
    }
    try:
        found = Path(snapshot_download(name, allow_patterns=list(NEEDED)))
    except Exception as error:  # the client's errors for proxies, disks and partial answers differ by version
        known = next((text for kind, text in problems.items() if isinstance(error, kind)), None)
        said = (str(error).splitlines() or [type(error).__name__])[0]
        problem = known or f"fetching it from the Hugging Face hub failed: {said}"
        raise CheckpointError(f"{name} is not a folder, and {problem}") from None
    if not any(found.glob("*.safetensors")):
        problem = "its repository on the hub has no model*.safetensors: pickled weights and other formats are not read"
        raise CheckpointError(f"{name} is not a folder, and {problem}")
    return found
