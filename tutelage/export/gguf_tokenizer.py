"""A folder's tokenizer as llama.cpp knows it: byte-level BPE ("gpt2"), sentencepiece's BPE ("llama") and its Unigram ("t5").

The file says what the backend that we load says, whatever files it came from. llama.cpp has fewer rules than the `tokenizers`
library: what would give other ids for ordinary texts is refused by name, what does so at the edges only is a note. Two things
no file changes: llama.cpp's server reads control tokens in what a user typed, and a token that the vocabulary does not flag as
special, such as ``<think>``, is found in every text.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import CheckpointError, UsageError
from tutelage.model.generation_config import read_generation_config
from tutelage.records import Message
from tutelage.text.chat import render
from tutelage.text.imported.folder import Imported, read_folder
from tutelage.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf

_SPACE = "▁"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # gguf.TokenType, and sentencepiece's types

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    (("words",), False): "gpt-2",
    (("digits", "words"), False): "smollm",
    ((_WORDS % "{1,3}", "bytes"), True): "llama-bpe",
    ((_WORDS % "{1,3}", "bytes"), False): "smaug-bpe",
    ((_WORDS % "", "bytes"), False): "qwen2",
}
"""How texts are cut before byte-level BPE, and whether a whole word that is a token goes before merges -> llama.cpp's name.

``words`` is ByteLevel with GPT-2's regular expression, ``bytes`` without; the two regular expressions are Llama 3's and Qwen 2's.
"""
_SQUEEZE = [(r"\A +| +\z", ""), (" {2,}", " ")]  # sentencepiece's remove_extra_whitespaces, as text/spm.py writes it
# llama.cpp stops at these whatever the file says.
_KNOWN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")


@dataclass
class Spaces:
    """What a sentencepiece tokenizer does to a text before its pieces are looked up."""

    prefix: str
    """Where a space is put: "always" before each stretch between control tokens, "first" before a text, or "never"."""
    spare: bool
    """A stretch that begins with a space gets no other."""
    squeeze: bool
    """Spaces around a stretch go, several in a row become one."""
    charsmap: bytes
    """sentencepiece's table of normal forms."""


@dataclass
class Vocabulary:
    """The tokens by their ids, as GGUF has them. ``scores`` are sentencepiece's; byte-level BPE has ``merges`` instead."""

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, vocab_size: int) -> list[str]:
    """Write all keys of the tokenizer and the chat template; returns what llama.cpp does otherwise at the edges.

    CheckpointError for a tokenizer whose rules llama.cpp does not have.
    """
    source, tokenizer = read_folder(checkpoint), Tokenizer.load(checkpoint)
    described = json.loads(source.backend.to_str())
    begun = _begins_with(tokenizer)
    kind = described["model"].get("type")
    try:
        vocabulary = _tokens(described, source, vocab_size)
        if kind == "BPE" and not _of_sentencepiece(described):
            _byte_level(writer, vocabulary, described)
        elif kind == "BPE":
            _sentencepiece_bpe(writer, vocabulary, described, begun, tokenizer)
        elif kind == "Unigram":
            _unigram(writer, vocabulary, described, begun, tokenizer)
        else:
            raise CheckpointError(f"a {kind} tokenizer is not exported to GGUF: only BPE and Unigram are")
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    bos, eos = _ids(writer, checkpoint, source, tokenizer, vocabulary)
    # Where the template writes the first token itself, llama.cpp takes one of the two off again: add it for texts without one.
    writer.add_add_bos_token(begun is None or begun == tokenizer.bos_id)
    writer.add_add_eos_token(False)
    _templates(writer, source, {"bos_token": vocabulary.tokens[bos], "eos_token": vocabulary.tokens[eos]})
    return vocabulary.notes


def _tokens(described: Mapping[str, Any], source: Imported, vocab_size: int) -> Vocabulary:
    """Texts and types of all ids; ids without a token (padding of the vocabulary) are UNUSED."""
    model, named = described["model"], set(source.names.values())
    pieces = model["vocab"]
    ids = dict(pieces) if isinstance(pieces, dict) else {text: i for i, (text, _) in enumerate(pieces)}
    if not isinstance(pieces, dict) and len(ids) != len(pieces):
        raise CheckpointError("two pieces of the Unigram are the same")
    texts = {i: text for text, i in ids.items()}
    types = dict.fromkeys(texts, NORMAL)
    sentencepiece = _of_sentencepiece(described)
    if sentencepiece:
        types |= {ids[text]: BYTE for text in _BYTES if text in ids}
    for token in described["added_tokens"]:
        i, text = token["id"], token["content"]
        texts[i] = text
        _check_added(token, source)
        if token["special"] or text in named:
            types[i] = CONTROL
        elif not (
            sentencepiece and text in ids and _SPACE in text
        ):  # Gemma's spaces: as pieces they are written as spaces
            types[i] = USER_DEFINED
    unknown = model.get("unk_id") if model["type"] == "Unigram" else ids.get(model.get("unk_token"))
    if sentencepiece and unknown is not None:
        types[unknown] = UNKNOWN
    notes = []
    for i in sorted(i for i in texts if i >= vocab_size):
        if texts[i] not in source.appended:
            raise CheckpointError(f"the token {texts[i]!r} has the id {i}, but the model has only {vocab_size} tokens")
        notes.append(f"{texts[i]!r} is not in the file: the model has no embedding for it")
    return Vocabulary(
        "",
        [texts.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        [types.get(i, UNUSED) for i in range(vocab_size)],
        notes=notes,
    )


def _of_sentencepiece(described: Mapping[str, Any]) -> bool:
    """Are spaces kept as sentencepiece does, and not as bytes?"""
    rules = [described["normalizer"], described["pre_tokenizer"]]
    return described["model"]["type"] == "Unigram" or _SPACE in json.dumps(rules, ensure_ascii=False)


def _check_added(token: Mapping[str, Any], source: Imported) -> None:
    text = token["content"]
    for flag in ("lstrip", "rstrip", "single_word"):
        if token[flag]:
            raise CheckpointError(f"the token {text!r} has the flag {flag}, which llama.cpp does not have")
    normalizer = source.backend.normalizer
    if token["normalized"] and normalizer is not None and normalizer.normalize_str(text) != text:
        raise CheckpointError(f"the token {text!r} has the flag normalized, which llama.cpp does not have")


def _byte_level(writer: gguf.GGUFWriter, vocabulary: Vocabulary, described: Mapping[str, Any]) -> None:
    model = described["model"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise CheckpointError("llama.cpp knows no prefix or suffix of subwords")
    for step in _steps(described["normalizer"], "normalizers"):
        if step["type"] != "NFC":
            raise CheckpointError(f"llama.cpp normalises no text for byte-level BPE, the tokenizer has {step['type']}")
        vocabulary.notes.append(
            "llama.cpp does not compose characters (NFC): texts that have them in parts get other tokens"
        )
    writer.add_tokenizer_pre(pre_tokenizer(described))
    vocabulary.model = "gpt2"
    vocabulary.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def pre_tokenizer(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rules by which a tokenizer.json cuts text before BPE; CheckpointError where it has none."""
    rules, shape = described["pre_tokenizer"] or {"type": None}, []
    for step in _steps(rules, "pretokenizers"):
        if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            shape.append("words" if step["use_regex"] else "bytes")
        elif step["type"] == "Digits" and step["individual_digits"]:
            shape.append("digits")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            shape.append(str(step["pattern"].get("Regex")))
        else:
            shape.append("another")
    whole_words = bool(described["model"].get("ignore_merges"))
    if name := PRE_TOKENIZERS.get((tuple(shape), whole_words)):
        return name
    where = " with ignore_merges" if whole_words else ""
    raise CheckpointError(f"llama.cpp has no name for this pre-tokenizer{where}: {json.dumps(rules)[:200]}")


def _sentencepiece_bpe(
    writer: gguf.GGUFWriter,
    vocabulary: Vocabulary,
    described: Mapping[str, Any],
    begun: int | None,
    tokenizer: Tokenizer,
) -> None:
    model, spaces = described["model"], _spaces(described)
    if spaces.charsmap or spaces.squeeze:
        raise CheckpointError(
            "llama.cpp normalises no text for a BPE of sentencepiece: the tokenizer "
            + ("has a table of normal forms" if spaces.charsmap else "takes extra spaces out")
        )
    if missing := next((text for text in _BYTES if text not in model["vocab"]), None):
        raise CheckpointError(f"llama.cpp writes unknown characters as bytes, but the tokenizer has no {missing}")
    if model.get("ignore_merges"):
        raise CheckpointError("llama.cpp knows no ignore_merges in a BPE of sentencepiece")
    vocabulary.model = "llama"
    scores = _scores([tuple(pair) for pair in model["merges"]], vocabulary)
    vocabulary.scores = [scores.get(text, 0.0) for text in vocabulary.tokens]
    writer.add_add_space_prefix(_prefix(spaces, vocabulary, begun, tokenizer))


def _scores(merges: list[tuple[str, ...]], vocabulary: Vocabulary) -> dict[str, float]:
    """A score for each piece that makes llama.cpp join as the merges do: minus the place of its first merge.

    llama.cpp, like sentencepiece, joins two neighbours whenever the whole is a piece, the piece of the best score first. That is
    what the merges say if those that make one piece stand together and no way to cut a piece in two is left out.
    """
    scores: dict[str, float] = {}
    for piece, _ in itertools.groupby(left + right for left, right in merges):
        if piece in scores:
            raise CheckpointError(
                f"its merges are not those of a sentencepiece model: {piece!r} has two places in their order"
            )
        scores[piece] = -1.0 - len(scores)
    known = set(merges)
    plain = {text for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == NORMAL}
    for piece in plain:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            joined = all(len(part) == 1 or part in plain for part in (left, right))
            if joined and (left, right) not in known:
                raise CheckpointError(f"llama.cpp joins {left!r} and {right!r}, the tokenizer does not")
    return scores


def _unigram(
    writer: gguf.GGUFWriter,
    vocabulary: Vocabulary,
    described: Mapping[str, Any],
    begun: int | None,
    tokenizer: Tokenizer,
) -> None:
    model, spaces = described["model"], _spaces(described)
    if model.get("byte_fallback"):
        raise CheckpointError("llama.cpp writes unknown characters as one token in a Unigram, the tokenizer as bytes")
    if model.get("unk_id") is None:
        raise CheckpointError("a Unigram without a piece for what it does not know is not exported to GGUF")
    if spaces.squeeze and spaces.prefix == "never":
        raise CheckpointError(
            "where llama.cpp takes extra spaces out it puts one before a text, the tokenizer does not"
        )
    for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        # llama.cpp keeps from its normal forms all that such a piece begins with, half a character too.
        if kind == USER_DEFINED and (spaces.charsmap or not text.isascii()):
            raise CheckpointError(f"llama.cpp does not normalise texts with {text!r} as the tokenizer does")
    vocabulary.model = "t5"
    scores = dict(model["vocab"])
    vocabulary.scores = [scores.get(text, 0.0) for text in vocabulary.tokens]
    writer.add_add_space_prefix(_prefix(spaces, vocabulary, begun, tokenizer))
    writer.add_remove_extra_whitespaces(spaces.squeeze)
    if spaces.charsmap:
        writer.add_precompiled_charsmap(spaces.charsmap)
        vocabulary.notes.append(
            "llama.cpp normalises character by character: in sequences such as \\r\\n it may differ"
        )


def _spaces(described: Mapping[str, Any]) -> Spaces:
    """Read normalizer and pre-tokenizer: as text/spm.py writes them, or as Llama's and Gemma's tokenizer.json have them."""
    found = Spaces("", False, False, b"")
    squeezes: list[tuple[str, str]] = []
    for step in _steps(described["normalizer"], "normalizers"):
        pattern = step.get("pattern", {})
        if step["type"] == "Precompiled" and not squeezes:
            found.charsmap = base64.b64decode(step["precompiled_charsmap"])
        elif step["type"] == "Prepend" and step["prepend"] == _SPACE and not found.prefix:
            found.prefix = "always"
        elif step["type"] == "Replace" and pattern == {"String": " "} and step["content"] == _SPACE:
            found.prefix = found.prefix or "never"
        elif step["type"] == "Replace" and (pattern.get("Regex"), step["content"]) in _SQUEEZE:
            squeezes.append((pattern["Regex"], step["content"]))
        else:
            raise CheckpointError(f"llama.cpp does not know this step of a normalizer: {json.dumps(step)[:200]}")
    cutting = described["pre_tokenizer"]
    merged = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    if cutting is not None and cutting["type"] == "Metaspace" and cutting["replacement"] == _SPACE and not found.prefix:
        found.prefix, found.spare = cutting["prepend_scheme"], cutting["prepend_scheme"] != "never"
        vocabulary = described["model"]["vocab"]
        across = next((t for t in map(str, dict(vocabulary)) if _SPACE in t[1:]), None) if cutting["split"] else None
        if across is not None:
            raise CheckpointError(
                f"llama.cpp does not cut texts at spaces, as the tokenizer does: {across!r} goes across"
            )
    elif not found.prefix or cutting not in (None, merged):  # Gemma's cuts at spaces when there are none any more
        raise CheckpointError(f"llama.cpp has no name for this pre-tokenizer: {json.dumps(cutting)[:200]}")
    if squeezes not in ([], _SQUEEZE):
        raise CheckpointError("llama.cpp takes extra spaces out at the ends of a text and within, or nowhere")
    found.squeeze = bool(squeezes)
    return found


def _prefix(spaces: Spaces, vocabulary: Vocabulary, begun: int | None, tokenizer: Tokenizer) -> bool:
    """add_space_prefix: llama.cpp puts a space before each stretch between control tokens, or before none."""
    notes = vocabulary.notes
    if spaces.prefix == "first" and begun is not None:
        if begun not in tokenizer.special_ids:
            raise CheckpointError(
                "llama.cpp puts a space after every control token or none at all, the tokenizer one at the beginning of a text, "
                "with which the chat template begins"
            )
        notes.append("a text without chat template has no space before it in llama.cpp")
        return False
    if spaces.prefix == "first":
        notes.append("llama.cpp puts a space before what follows a control token")
    if spaces.spare and not (spaces.squeeze and spaces.prefix == "always"):
        notes.append("llama.cpp puts a space also before texts that begin with one")
    return spaces.prefix != "never"


def _ids(
    writer: gguf.GGUFWriter, checkpoint: Path, source: Imported, tokenizer: Tokenizer, vocabulary: Vocabulary
) -> tuple[int, int]:
    """Write which ids begin, end, pad and stand for the unknown; returns the first two.

    llama.cpp has three keys for ends: what is more is a note.
    """
    size = len(vocabulary.tokens)
    named = {key: source.backend.token_to_id(text) for key, text in source.names.items()}
    bos = named.get("bos_token")
    bos = tokenizer.bos_id if bos is None else bos
    more = () if tokenizer.chat is None else tokenizer.chat.end_ids
    ends = [named.get("eos_token"), tokenizer.end_id, *more, *read_generation_config(checkpoint).end_ids]
    eos, *others = dict.fromkeys(i for i in ends if i is not None and i < size)
    # What llama.cpp stops at anyway needs no key.
    others.sort(key=lambda i: vocabulary.tokens[i] in _KNOWN_ENDS)
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    for i, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(i)
    if tokenizer.pad_id < size:
        writer.add_pad_token_id(tokenizer.pad_id)
    if UNKNOWN in vocabulary.types:
        writer.add_unk_token_id(vocabulary.types.index(UNKNOWN))
    lost = [vocabulary.tokens[i] for i in others[2:] if vocabulary.tokens[i] not in _KNOWN_ENDS]
    if lost:
        vocabulary.notes.append(
            f"llama.cpp has room for three end tokens and does not stop at {', '.join(map(repr, lost))}"
        )
    return bos, eos


def _begins_with(tokenizer: Tokenizer) -> int | None:
    """The first id of a conversation; None where there is no chat template."""
    if tokenizer.chat is not None and tokenizer.chat.template is None:
        return None
    question = Message(role="user", content="Ask")
    try:
        return render(tokenizer, [question], add_generation_prompt=True).ids[0]
    except UsageError:  # it wants a system message
        return render(tokenizer, [Message(role="system", content="Be"), question], add_generation_prompt=True).ids[0]


def _templates(writer: gguf.GGUFWriter, source: Imported, given: Mapping[str, str]) -> None:
    """The chat template and, where there are several, the others by their names."""
    if source.template is None:
        return
    default = portable_template(source.template, source.names, given)
    others = [
        {"name": name, "template": portable_template(text, source.names, given)}
        for name, text in source.other_templates.items()
    ]
    writer.add_chat_template([{"name": "default", "template": default}, *others] if others else default)


def portable_template(template: str, names: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The template without {% generation %} tags, at which llama.cpp's parser stops, and with its variables set.

    llama.cpp sets those in ``given`` alone, bos_token and eos_token, and these two even where the tokenizer names none.
    """
    template = re.sub(r"{%([-+]?)\s*generation\s*([-+]?)%}", r"{%\1 if true \2%}", template)
    template = re.sub(r"{%([-+]?)\s*endgeneration\s*([-+]?)%}", r"{%\1 endif \2%}", template)
    wanted = dict.fromkeys(given, "") | dict(names)
    return (
        "".join(
            f"{{%- set {key} = {json.dumps(text, ensure_ascii=False)} %}}\n"  # the newline goes with the tag
            for key, text in wanted.items()
            if given.get(key) != text and re.search(rf"\b{re.escape(key)}\b", template)
        )
        + template
    )


def _steps(rules: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    if rules is None:
        return []
    return (
        [inner for step in rules[key] for inner in _steps(step, key)] if rules["type"] == "Sequence" else [dict(rules)]
    )
