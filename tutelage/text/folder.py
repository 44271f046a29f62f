"""Reading the tokenizer of a Hugging Face folder: whatever files it has, one backend, its named tokens and its templates.

Three kinds, in this order: tokenizer.json; vocab.json with merges.txt (GPT-2's byte-level BPE, and Qwen2's); tokenizer.model
(sentencepiece). Tokens are added as transformers adds them, so ids are the same. A tokenizer.json is taken at its word:
transformers 5 builds some classes anew and ignores what the file says there (LlamaTokenizer: of the space after control tokens).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tutelage.errors import CheckpointError
from tutelage.text.spm import backend_from_pieces, read_pieces

_FILES = "tokenizer.json, vocab.json with merges.txt, or tokenizer.model"
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What the files with a class of their own know by that class alone: names of tokens, and Qwen2's way to cut texts into words.
_GPT2_NAMES = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_QWEN2_NAMES = {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass
class Imported:
    """What was read. ``names`` are bos_token and the like; ``config`` is tokenizer_config.json without what the rest says."""

    backend: tokenizers.Tokenizer
    names: dict[str, str]
    config: dict[str, Any]
    template: str | None
    other_templates: dict[str, str] = field(default_factory=dict)
    stop_ids: tuple[int, ...] = ()
    """The ids that the model's generation_config.json (or config.json) stops at."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files to write back as they are: tokenizer.model, which llama.cpp's converter prefers."""
    appended: list[str] = field(default_factory=list)
    """Tokens that the files do not have and that stand at the end of the vocabulary now."""


def read_folder(folder: Path) -> Imported:
    """Read a tokenizer. Raises CheckpointError where there is none, or a damaged one, or one that cannot be read."""
    try:
        return _read_folder(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape than the files have
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: not the configuration of a tokenizer ({what})"
        ) from None


def _read_folder(folder: Path) -> Imported:
    config = _read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # older folders keep their tokens' flags in this file
        config |= _read_json(folder / "special_tokens_map.json")
    template, others = _templates(folder, config)
    names = _names(config)
    spm = folder / "tokenizer.model"
    files = {"tokenizer.model": _read(spm)} if spm.exists() else {}
    if (folder / "tokenizer.json").exists():
        backend = read_backend(folder / "tokenizer.json")
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend, defaults = _from_vocabulary(folder, config)
        names = {k: v for k, v in (defaults | names).items() if backend.token_to_id(v) is not None or k in names}
    elif files:
        backend, defaults = _from_sentencepiece(spm, files["tokenizer.model"], config)
        names = defaults | names
    else:
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(f"{folder} holds adapters alone, which stand on another model: give a model folder")
        raise CheckpointError(f"{folder}: there is no tokenizer here (no {_FILES})")
    backend.no_padding()
    backend.no_truncation()
    before = backend.get_vocab(with_added_tokens=True)
    _add_tokens(folder, backend, config, names)
    _begin_and_end(backend, config, names)
    return Imported(
        backend,
        names,
        config,
        template,
        others,
        _stop_ids(folder),
        files,
        sorted(set(backend.get_vocab(with_added_tokens=True)) - set(before)),
    )


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json. Raises CheckpointError where it cannot be read."""
    try:
        text = _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise CheckpointError(f"{path}: not a tokenizer ({error})") from None


def _from_vocabulary(folder: Path, config: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Byte-level BPE of vocab.json and merges.txt, cut into words as the class in ``config`` has it; GPT-2 where it has none."""
    name = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if name not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise CheckpointError(
            f"{folder}: how {name} cuts texts into words is not known, and vocab.json does not say it; load it with "
            "transformers and save it: that writes a tokenizer.json, which does"
        )
    try:
        vocabulary = json.loads(_read(folder / "vocab.json"))
        lines = _read(folder / "merges.txt").decode("utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        merges = [(left, right) for left, right in pairs]
        model = models.BPE(
            vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False
        )
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise CheckpointError(f"{folder}: vocab.json and merges.txt are no BPE ({error})") from None
    backend = tokenizers.Tokenizer(model)
    space_before = bool(config.get("add_prefix_space", False))
    if name == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=space_before, use_regex=False),
            ]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space_before)
    backend.decoder = decoders.ByteLevel()
    return backend, _QWEN2_NAMES if name == "Qwen2Tokenizer" else _GPT2_NAMES


def _from_sentencepiece(
    path: Path, data: bytes, config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    try:
        pieces = read_pieces(data)
        return backend_from_pieces(pieces, config), pieces.names
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise CheckpointError(f"{path}: not a sentencepiece model that can be read ({error})") from None


def _add_tokens(
    folder: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Add what the configuration has and the backend has not, in transformers' order: the table, the named, the others."""
    table = {int(i): _added(token) for i, token in config.get("added_tokens_decoder", {}).items()}
    if not table:
        special = {*names.values(), *(token.content for token in _others(config))}
        for text, i in _read_json(folder / "added_tokens.json").items():
            table[i] = AddedToken(text, normalized=text not in special, special=text in special)
    known = backend.get_added_tokens_decoder()
    flags = {repr(token) for token in known.values()}
    new = [token for _, token in sorted(table.items()) if repr(token) not in flags]
    have = {token.content for token in (*known.values(), *new)}
    new += [
        AddedToken(text, normalized=False, special=True) for text in dict.fromkeys(names.values()) if text not in have
    ]
    have |= set(names.values())
    new += [token for token in _others(config) if token.content not in have]
    for token in new:
        token.special = token.special or token.content in names.values()
    backend.add_tokens(new)
    for i, token in table.items():
        if backend.token_to_id(token.content) != i:
            raise CheckpointError(
                f"{folder}: the token {token.content!r} should have the id {i} and has {backend.token_to_id(token.content)}: "
                "the files of the tokenizer do not belong together"
            )


def _begin_and_end(backend: tokenizers.Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Where the configuration says that texts begin or end with a token, write it into the backend, unless it says so itself."""
    begin = names.get("bos_token") if config.get("add_bos_token") else None
    end = names.get("eos_token") if config.get("add_eos_token") else None
    if backend.post_processor is None and (begin or end):
        backend.post_processor = processors.TemplateProcessing(
            single=[*([begin] if begin else []), "$A", *([end] if end else [])],
            special_tokens=[(text, backend.token_to_id(text)) for text in dict.fromkeys((begin, end)) if text],
        )


def _added(token: Any) -> AddedToken:
    """An added token as a configuration writes it: its text, or a table with its flags."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    flags = {k: token[k] for k in ("lstrip", "normalized", "rstrip", "single_word", "special") if k in token}
    return AddedToken(token["content"], **flags)


def _others(config: Mapping[str, Any]) -> list[AddedToken]:
    """The special tokens without a name, under transformers' old key or its new one."""
    found = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    tokens = [_added(token) for token in (found.values() if isinstance(found, dict) else found)]
    for token in tokens:
        token.special = True
    return tokens


def _names(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and the like: what is named, and its text. A model's own names (image_token) too."""
    names = {}
    for key, value in config.items():
        if key in _NAMES or (key.endswith("_token") and isinstance(value, str)):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                names[key] = text
            elif value is not None:
                raise ValueError(f"{key} is {value!r}, which is no text")
    return names


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The default chat template and the others by name. Files go before the key in the configuration, as in transformers."""
    found: dict[str, str] = {}
    stored = config.get("chat_template")
    if isinstance(stored, str):
        found["default"] = stored
    elif isinstance(stored, list):
        found = {entry["name"]: entry["template"] for entry in stored}
    elif isinstance(stored, dict):
        found = dict(stored)
    if not isinstance(stored, str | list | dict | None) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("chat_template is no text")
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    files = {name: _read_template(path) for name, path in paths.items() if path.exists()}
    found = files or found
    for name in found:
        if not re.fullmatch(r"[\w.-]+", name):
            raise CheckpointError(f"{folder}: {name!r} cannot be the name of a chat template")
    if found and "default" not in found and len(found) > 1:
        raise CheckpointError(f"{folder}: has the chat templates {', '.join(sorted(found))}, and none is the default")
    default = found.pop("default", None) or (found.popitem()[1] if found else None)
    return default, found


def _stop_ids(folder: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        said = _read_json(folder / name).get("eos_token_id")
        ids = said if isinstance(said, list) else [] if said is None else [said]
        if not all(type(i) is int and 0 <= i < 2**32 for i in ids):
            raise CheckpointError(
                f"{folder / name}: eos_token_id is {said!r}: it must be the id of a token, or a list of some"
            )
        if said is not None:
            return tuple(ids)
    return ()


def require_rows(folder: Path, backend: tokenizers.Tokenizer) -> None:
    """CheckpointError where the folder's model has too few rows for this tokenizer to be its own.

    Added tokens alone may be more than the model has rows for: many a padding token was added without telling the model.
    """
    rows = _read_json(folder / "config.json").get("vocab_size")
    if type(rows) is not int:
        return
    own, whole = (max(backend.get_vocab(with_added_tokens=added).values(), default=-1) + 1 for added in (False, True))
    if own > rows or whole - rows > len(backend.get_added_tokens_decoder()):
        raise CheckpointError(
            f"{folder}: its tokenizer has {whole} tokens, its config.json rows for {rows}: they do not belong together"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _read_template(path: Path) -> str:
    try:
        text = _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not text.strip():
        raise CheckpointError(f"{path}: is empty; without the file, the model has no template")
    return text


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(_read(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or nested without end
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
