"""Reading the tokenizer of a Hugging Face folder: one backend, its named tokens and its chat templates.

A tokenizer.json is taken at its word; transformers 5 builds some classes anew and ignores what the file says there. Folders
without one (sentencepiece's tokenizer.model, or vocab.json with merges.txt) are converted by transformers. Tokens that only the
configuration has are added as transformers adds them, so ids are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tutelage.errors import CheckpointError

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class Imported:
    """What was read. ``names`` are bos_token and the like; ``config`` is tokenizer_config.json."""

    backend: tokenizers.Tokenizer
    names: dict[str, str]
    config: dict[str, Any]
    template: str | None
    other_templates: dict[str, str]
    stop_ids: tuple[int, ...]
    """The ids that the model's generation_config.json (or config.json) stops at."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files to write back as they are: tokenizer.model, which llama.cpp's converter prefers."""
    appended: list[str] = field(default_factory=list)
    """Tokens that the files do not have, now at the end of the vocabulary."""


def read_folder(folder: Path) -> Imported:
    """Read a tokenizer. Raises CheckpointError where there is none, or a damaged one, or one that cannot be read."""
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
        template, others = _templates(folder, config)
        _add_tokens(folder, backend, config, names)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape than the files have
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: not the configuration of a tokenizer ({what})"
        ) from None
    return Imported(
        backend,
        names,
        config,
        template,
        others,
        _stop_ids(folder),
        {sentencepiece.name: _read(sentencepiece)} if sentencepiece.exists() else {},
        sorted(backend.get_vocab(with_added_tokens=True).keys() - before),
    )


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
        raise CheckpointError(
            f"{folder}: transformers cannot read its tokenizer ({str(error).strip()[:300]})"
        ) from None
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
        if backend.token_to_id(token.content) != i:
            raise CheckpointError(
                f"{folder}: the token {token.content!r} should have the id {i} and has {backend.token_to_id(token.content)}: "
                "the files of the tokenizer do not belong together"
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
        if key in _NAMES or (key.endswith("_token") and isinstance(value, str)):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                names[key] = text
            elif value is not None:
                raise ValueError(f"{key} is {value!r}, which is not text")
    return names


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The default chat template and the others by name. Files go before the key in the configuration, as in transformers."""
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {name: _read_text(path) for name, path in paths.items() if path.exists()}
    stored = config.get("chat_template") or []
    if not found:
        listed = [{"name": "default", "template": stored}] if isinstance(stored, str) else stored
        found = {entry["name"]: entry["template"] for entry in listed}
    for name, text in found.items():
        if not isinstance(text, str) or not re.fullmatch(r"[\w.-]+", name):  # a name becomes that of a file
            raise CheckpointError(f"{folder}: {name!r} cannot be the name of a chat template, or it is not text")
        if not text.strip():
            raise CheckpointError(f"{paths.get(name, folder)}: is empty; without the file, the model has no template")
    if len(found) > 1 and "default" not in found:
        raise CheckpointError(f"{folder}: has the chat templates {', '.join(sorted(found))}, and none is the default")
    default = found.pop("default", None) or (found.popitem()[1] if found else None)
    return default, found


def _stop_ids(folder: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        said = _read_json(folder / name).get("eos_token_id")
        ids = said if isinstance(said, list) else [said]
        if said is not None:
            if not all(type(i) is int and 0 <= i < 2**32 for i in ids):
                raise CheckpointError(
                    f"{folder / name}: eos_token_id is {said!r}: it must be the id of a token, or a list of ids"
                )
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    try:
        value = json.loads(_read(path).decode("utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
