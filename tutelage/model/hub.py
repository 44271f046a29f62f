"""A model by name: a local folder, or a repository on the Hugging Face hub, of which only what we read is fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tutelage.errors import CheckpointError

NEEDED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "reader/*config.json",
    "reader/model*.safetensors",
    "reader/model.safetensors.index.json",
)
"""What a model folder of ours can hold. Pickles (*.bin, *.pt), other formats and other copies of the weights stay there."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve_model(name: Path | str, *, revision: str | None = None) -> Path:
    """The folder of a model: ``name`` itself where it is a folder, or else a snapshot of the hub's repository ``name``.

    Needs the ``interop`` extra for hub names. What the hub's cache already holds is used without a network; ``HF_HOME``,
    ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` work as everywhere. ``revision``: a branch, tag or commit; default the main branch.

    CheckpointError if it is neither, if the hub cannot be reached or refuses, or if the repository has no safetensors.
    """
    name, folder = str(name), Path(os.path.expanduser(name))
    if name and folder.is_dir():
        return folder
    if name and folder.exists():
        raise CheckpointError(f"{folder} is a file: give the model's folder")
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise CheckpointError(
            f"{name!r} is no folder, and no name on the Hugging Face hub (such as Qwen/Qwen3-0.6B) either"
        )
    if "/" in name and Path(name).parent.is_dir():
        raise CheckpointError(f"{folder} does not exist: give a model folder, or a name on the Hugging Face hub")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise CheckpointError(
            f"{name} is no folder; to fetch it from the Hugging Face hub, pip install 'tutelage[interop]'"
        ) from None
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=list(NEEDED)))
    except GatedRepoError:
        problem = "the hub wants its terms accepted: do that on its page, then log in with `hf auth login`"
    except RevisionNotFoundError:
        problem = f"the hub has the model, but no revision {revision!r}"
    except RepositoryNotFoundError:
        problem = "the hub has no such model (or it is private: log in with `hf auth login`)"
    except HFValidationError:
        problem = "it is no valid name on the Hugging Face hub"
    except LocalEntryNotFoundError:
        problem = "the Hugging Face hub cannot be reached (nor does its cache here hold all files): give a folder or go online"
    except Exception as error:  # the client's own kinds for proxies, disks and half answers differ by its version
        said = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"fetching it from the Hugging Face hub failed: {said}"
    else:
        if any(found.glob("*.safetensors")):
            return found
        problem = "the hub's repository has no model*.safetensors: pickled weights and other formats are not read"
    raise CheckpointError(f"{name} is no folder, and {problem}")
