"""Reading the tokenizer of a Hugging Face folder: one backend, its named tokens and its chat template.

A tokenizer.json is taken at its word; transformers 5 builds some classes anew and ignores what the file says there. Folders
without one (sentencepiece's tokenizer.model, or vocab.json with merges.txt) are converted by transformers. Tokens that only the
configuration has are added as transformers adds them, so ids are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tutelage.errors import CheckpointError
from tutelage.files import read_object

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class Imported:
    """What was read. ``names`` are bos_token and the like; ``config`` is tokenizer_config.json."""

    backend: tokenizers.Tokenizer
    names: dict[str, str]
    config: dict[str, Any]
    template: str | None
    stop_ids: tuple[int, ...]
    """The ids that the model's generation_config.json (or config.json) stops at."""
    files: dict[str, bytes]
    """Files to write back as they are: tokenizer.model, which llama.cpp's converter prefers."""
    appended: list[str]
    """Tokens that the files do not have, now at the end of the vocabulary."""


def read_folder(folder: Path) -> Imported:
    """Read a tokenizer. Raises CheckpointError where there is none, and where it is damaged."""
    config = _read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # older folders keep their tokens' flags in this file
        config |= _read_json(folder / "special_tokens_map.json")
    sentencepiece = folder / "tokenizer.model"
    if (folder / "tokenizer.json").exists():
        backend, defaults = read_backend(folder / "tokenizer.json"), dict[str, str]()
    elif sentencepiece.exists() or (folder / "vocab.json").exists():
        backend, defaults = _converted(folder)
    elif (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds only adapters, which need their base model: give a model folder")
    else:
        files = "tokenizer.json, vocab.json with merges.txt, or tokenizer.model"
        raise CheckpointError(f"{folder}: there is no tokenizer here (no {files})")
    backend.no_padding()
    backend.no_truncation()
    before = backend.get_vocab(with_added_tokens=True).keys()
    try:
        names = defaults | _names(config)
        template = _template(folder, config)
        _add_tokens(folder, backend, config, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape than the files have
        where, what = folder / "tokenizer_config.json", f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{where}: not the configuration of a tokenizer ({what})") from None
    kept = {sentencepiece.name: sentencepiece.read_bytes()} if sentencepiece.exists() else {}
    appended = sorted(backend.get_vocab(with_added_tokens=True).keys() - before)
    return Imported(backend, names, config, template, _stop_ids(folder), kept, appended)


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json. Raises CheckpointError where it cannot be read."""
    text = _read_text(path)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise CheckpointError(f"{path}: not a tokenizer ({error})") from None


def _converted(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """What transformers makes of a folder without tokenizer.json, by the class that the folder names; and its named tokens.

    Vocabularies without a class are GPT-2's.
    """
    try:
        from transformers import AutoTokenizer, GPT2Tokenizer

        if (folder / "tokenizer.model").exists():
            import google.protobuf  # noqa: F401
            import sentencepiece  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            f"{folder}: has no tokenizer.json; to read its tokenizer, pip install 'tutelage[convert]' "
            f"({error.name} is missing)"
        ) from None
    named = any((folder / name).exists() for name in ("tokenizer_config.json", "config.json", "tokenizer.model"))
    try:
        theirs = (AutoTokenizer if named else GPT2Tokenizer).from_pretrained(folder, local_files_only=True)
        backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    except Exception as error:  # whatever the three libraries raise
        what = str(error).strip()[:300]
        raise CheckpointError(f"{folder}: transformers cannot read its tokenizer ({what})") from None
    if type(theirs).__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        raise CheckpointError(
            f"{folder}: nothing says how its tokenizer writes spaces; name its class in tokenizer_config.json, such as "
            '"tokenizer_class": "LlamaTokenizer"'
        )
    return backend, {name: str(text) for name, text in theirs.special_tokens_map.items() if name in _NAMES}


def _add_tokens(
    folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Add what the configuration has and the backend has not, in transformers' order: the table, the named, the others."""
    table = {int(i): _added(token) for i, token in config.get("added_tokens_decoder", {}).items()}
    others = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    others = [_added(token) for token in (others.values() if isinstance(others, dict) else others)]
    known = backend.get_added_tokens_decoder().values()
    flags = {repr(token) for token in known}
    new = {token.content: token for _, token in sorted(table.items()) if repr(token) not in flags}
    have = {token.content for token in known}
    for token in [*map(_added, names.values()), *others]:
        token.special = True
        if token.content not in have:
            new.setdefault(token.content, token)
    for text in new.keys() & set(names.values()):
        new[text].special = True
    backend.add_tokens(list(new.values()))
    for i, token in table.items():
        if (found := backend.token_to_id(token.content)) != i:
            raise CheckpointError(
                f"{folder}: the token {token.content!r} should have the id {i} and has {found}: the files of the tokenizer "
                "do not belong together"
            )


def _added(token: Any) -> AddedToken:
    """An added token as a configuration writes it: its text, or a table with its flags."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    flags = {k: token[k] for k in ("lstrip", "normalized", "rstrip", "single_word", "special") if k in token}
    return AddedToken(token["content"], **flags)


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and the like: what is named, and its text. A model's own names (image_token) too."""
    names = {}
    for key, value in config.items():
        text = value.get("content") if key in _NAMES and isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            names[key] = text
        elif key in _NAMES and value is not None:
            raise ValueError(f"{key} is {value!r}, which is not text")
    return names


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The default chat template. The file goes before the key in the configuration, as in transformers."""
    path, found = folder / "chat_template.jinja", config.get("chat_template")
    if path.exists():
        found = _read_text(path)
    elif isinstance(found, list):  # several, by their names
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default") or (named.popitem()[1] if len(named) == 1 else None)
        if named and found is None:
            raise CheckpointError(
                f"{folder}: has the chat templates {', '.join(sorted(named))}, and none is the default"
            )
    if found is not None and not found.strip():
        raise CheckpointError(
            f"{path if path.exists() else folder}: is empty; without the file, the model has no template"
        )
    return None if found is None else str(found)


def _stop_ids(folder: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        said = _read_json(folder / name).get("eos_token_id")
        if said is not None:
            ids = said if isinstance(said, list) else [said]
            if not all(type(i) is int and 0 <= i < 2**32 for i in ids):
                what = f"{said!r}: it must be the id of a token, or a list of ids"
                raise CheckpointError(f"{folder / name}: eos_token_id is {what}")
            return tuple(ids)
    return ()


def require_rows(folder: Path, backend: tokenizers.Tokenizer) -> None:
    """CheckpointError where the folder's model has too few rows for this tokenizer to be its own.

    Added tokens alone may be more than the model has rows for: many a padding token was added without telling the model.
    """
    rows = _read_json(folder / "config.json").get("vocab_size")
    own, whole = (max(backend.get_vocab(with_added_tokens=added).values(), default=-1) + 1 for added in (False, True))
    if type(rows) is int and (own > rows or whole - rows > len(backend.get_added_tokens_decoder())):
        raise CheckpointError(
            f"{folder}: its tokenizer has {whole} tokens, its config.json rows for {rows}: they do not belong together"
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    return read_object(path) if path.exists() else {}
