"""The tokenizer of a GGUF file as the files of a Hugging Face folder, and its chat template.

Byte-level BPE ("gpt2") has merges and a rule by which texts are cut: the tables of the export, read backwards. Sentencepiece's
BPE ("llama") has scores instead of merges and cuts nothing. Texts get the ids that llama.cpp gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from tutelage.errors import CheckpointError
from tutelage.export.gguf_tokenizer import ALIASES, CONTROL, KNOWN_ENDS, NORMAL, PRE_TOKENIZERS, UNUSED, USER_DEFINED

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_NAMES = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id", "pad_token": "padding_token_id",
}  # fmt: skip
_BY_DEFAULT = {"gpt2": {}, "llama": {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}}
"""The kinds of tokenizers that are read, and the ids that llama.cpp takes where a file names none."""
_UNNAMED = "default"
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True)
class Found:
    """A tokenizer as a file describes it. ``names`` are bos_token and the like, by their ids."""

    backend: tokenizers.Tokenizer
    names: dict[str, int]
    end_ids: list[int]
    template: str | None
    notes: list[str]
    begins: bool
    """Does llama.cpp put bos_token before a text, and ..."""
    ends: bool
    """... eos_token behind it?"""

    def files(self, plain: bool = False) -> dict[str, str]:
        """The files by their names in a folder; ``plain``: texts get no token before and behind them."""
        texts = {key: str(self.backend.id_to_token(i)) for key, i in self.names.items()}
        config = texts | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config["model_max_length"] = 10**9  # the limit is the model's, not the tokenizer's
        around = [
            texts[key] for key, on in (("bos_token", self.begins), ("eos_token", self.ends)) if on and key in texts
        ]
        if around and not plain:
            before, after = texts["bos_token"] if self.begins else "", texts["eos_token"] if self.ends else ""
            self.backend.post_processor = processors.TemplateProcessing(
                single=f"{before} $A {after}".split(),
                pair=f"{before} $A {after} {before} $B:1 {after}".split(),
                special_tokens=[(text, self.backend.token_to_id(text)) for text in dict.fromkeys(around)],
            )
        files = {
            "tokenizer.json": self.backend.to_str(pretty=True),
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        }
        return files if self.template is None else files | {"chat_template.jinja": self.template}


def read_tokenizer(keys: Mapping[str, Any], rows: int) -> Found:
    """Read the tokenizer of a model whose embedding has so many ``rows``.

    CheckpointError names the kind of tokenizer or the pre-tokenizer that is not supported, and what is missing.
    """
    kind, pre = keys.get(f"{_PREFIX}model"), ""
    if kind not in _BY_DEFAULT:
        raise CheckpointError(
            f"the tokenizer is of the kind {kind!r}, and only byte-level BPE ('gpt2') and sentencepiece's BPE ('llama') are "
            "read: take the tokenizer of the folder that the file was made of"
        )
    if kind == "gpt2":
        pre = _canonical(keys.get(f"{_PREFIX}pre", _UNNAMED))
    tokens, types = (_list(keys, _PREFIX + key) for key in ("tokens", "token_type"))
    if len(tokens) != len(types) or len(tokens) > rows:
        raise CheckpointError(
            f"the file has {len(tokens)} tokens, {len(types)} token types and an embedding of {rows} rows"
        )
    given = {key: keys.get(_PREFIX + key, _BY_DEFAULT[kind].get(key, -1)) for key in (*_NAMES.values(), *_ENDS)}
    # Files name ordinary tokens too, such as "!" as the unknown one; only an end makes a token special.
    ids = {key: i for key, i in given.items() if i in range(len(tokens)) and (key in _ENDS or types[i] != NORMAL)}
    for i in ids.values():
        types[i] = CONTROL  # a padding token may be one that else only fills up the vocabulary
    backend = _byte_level(keys, tokens, types, pre) if pre else _sentencepiece(keys, tokens, types, ids)
    known = [i for text in KNOWN_ENDS if (i := backend.token_to_id(text)) in backend.get_added_tokens_decoder()]
    template = keys.get(_TEMPLATE)
    notes = [f"the file's template {key!r} is left out" for key in keys if key.startswith(f"{_TEMPLATE}.")]
    if pre == _UNNAMED:
        notes.append(
            "the file names no pre-tokenizer: texts are cut as llama.cpp does then, perhaps not as the model learned"
        )
    if not template:
        notes.append("the file has no chat template: put a chat_template.jinja into the folder to chat")
    return Found(
        backend,
        {ours: ids[theirs] for ours, theirs in _NAMES.items() if theirs in ids},
        list(dict.fromkeys([*(ids[key] for key in _ENDS if key in ids), *known])),
        str(template) if template else None,
        notes,
        begins="bos_token_id" in ids and bool(keys.get(f"{_PREFIX}add_bos_token", pre in ("", "llama-bpe"))),
        ends="eos_token_id" in ids and bool(keys.get(f"{_PREFIX}add_eos_token", False)),
    )


def _list(keys: Mapping[str, Any], key: str) -> list[Any]:
    found = keys.get(key)
    if not isinstance(found, list):
        raise CheckpointError(f"the key {key} is missing")
    return found


def _canonical(pre: Any) -> str:
    """The name that our table has for a pre-tokenizer."""
    if pre in PRE_TOKENIZERS.values():
        return str(pre)
    for name, others in ALIASES.items():
        if pre in others:
            return name
    known = ", ".join([*PRE_TOKENIZERS.values(), *(name for others in ALIASES.values() for name in others)])
    raise CheckpointError(f"the pre-tokenizer {pre!r} ({_PREFIX}pre) is not supported: it must be one of {known}")


def _byte_level(keys: Mapping[str, Any], tokens: list[str], types: list[int], pre: str) -> tokenizers.Tokenizer:
    """Byte-level BPE with the file's merges."""
    pairs = [_pair(merge) for merge in _list(keys, f"{_PREFIX}merges")]
    shape, whole_words = next(key for key, name in PRE_TOKENIZERS.items() if name == pre)
    try:
        model = models.BPE(vocab=_vocabulary(tokens, types), merges=pairs, ignore_merges=whole_words)
    except Exception as error:  # the library raises bare Exception for a merge of unknown pieces
        raise CheckpointError(f"{_PREFIX}merges do not fit {_PREFIX}tokens: {error}") from None
    backend, steps = tokenizers.Tokenizer(model), [_step(kind) for kind in shape]
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return _with_whole_tokens(backend, tokens, types)


def _sentencepiece(
    keys: Mapping[str, Any], tokens: list[str], types: list[int], ids: Mapping[str, int]
) -> tokenizers.Tokenizer:
    """Sentencepiece's BPE: of all neighbours that make a piece, those with the highest score merge first.

    So every cut of a piece into two is a merge, in the order of scores. What has no piece is its bytes.
    """
    scores = _list(keys, f"{_PREFIX}scores")
    if len(scores) != len(tokens):
        raise CheckpointError(f"the file has {len(tokens)} tokens and {len(scores)} scores")
    vocabulary = _vocabulary(tokens, types)
    cuts = (
        (-scores[i], vocabulary[piece[:at]], vocabulary[piece[at:]], piece[:at], piece[at:])
        for piece, i in vocabulary.items()
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    )
    unknown = tokens[ids["unknown_token_id"]] if "unknown_token_id" in ids else None
    merges = [(left, right) for _, _, _, left, right in sorted(cuts)]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    back: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if keys.get(f"{_PREFIX}add_space_prefix", True):
        spaces, back = [normalizers.Prepend("▁"), *spaces], [*back, decoders.Strip(" ", 1, 0)]
    backend.normalizer, backend.decoder = normalizers.Sequence(spaces), decoders.Sequence(back)
    return _with_whole_tokens(backend, tokens, types)


def _vocabulary(tokens: list[str], types: list[int]) -> dict[str, int]:
    """The ids of all tokens but those that only fill it up."""
    return {text: i for i, text in enumerate(tokens) if not _fills_up(i, text, types[i])}


def _fills_up(i: int, text: str, kind: int) -> bool:
    return kind in (UNUSED, USER_DEFINED) and text == f"[PAD{i}]"


def _with_whole_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """The backend with the tokens that no merges make."""
    added = [
        AddedToken(text, normalized=False, special=kind == CONTROL)
        for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED) and text and not _fills_up(i, text, kind)
    ]
    backend.add_tokens(added)
    return backend


def _pair(merge: str) -> tuple[str, str]:
    """The two pieces of a merge; the first may begin with a space, as it does in llama.cpp."""
    at = merge.find(" ", 1)
    if at < 0:
        raise CheckpointError(f"{_PREFIX}merges has {merge!r}, which is not two pieces")
    return merge[:at], merge[at + 1 :]


def _step(kind: str) -> pre_tokenizers.PreTokenizer:
    """One step of a pre-tokenizer, by its name in PRE_TOKENIZERS."""
    if kind in ("words", "bytes"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "words")
    if kind == "digits":
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(kind), "isolated")
