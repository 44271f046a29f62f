"""A byte-level BPE tokenizer as llama.cpp knows it ("gpt2"): tokens, merges, the way texts are cut, ends, chat template.

What would give other ids for ordinary texts is refused by name; what does so only in rare texts is a note. Two things no file
changes: llama.cpp's server reads control tokens in what a user typed, and it finds tokens not flagged as special in every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import CheckpointError
from tutelage.records import Message
from tutelage.text.chat import render
from tutelage.text.imported.folder import Imported, read_folder
from tutelage.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS: dict[tuple[tuple[str, ...], bool], str] = {
    (("words",), False): "gpt-2",
    (("digits", "words"), False): "smollm",
    ((_WORDS % "{1,3}", "bytes"), True): "llama-bpe",
    ((_WORDS % "{1,3}", "bytes"), False): "smaug-bpe",
    ((_WORDS % "", "bytes"), False): "qwen2",
    ((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9]{3}", "bytes"), False): "default",
}
"""How texts are cut before BPE, and whether a whole word that is a token goes before merges -> llama.cpp's name.

``words`` is ByteLevel with GPT-2's regular expression, ``bytes`` without; ``_WORDS`` are Llama 3's and Qwen 2's. ``default`` is
what llama.cpp does where a file has no name.
"""
ALIASES = {
    "gpt-2": ("gigachat", "granite-docling", "jais", "mellum", "mpt", "olmo", "trillion"),
    "smollm": ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "starcoder"),
    "llama-bpe": ("falcon3", "falcon-h1", "lfm2", "llama3", "llama-v3", "midm-2.0", "pixtral"),
    "smaug-bpe": ("dbrx",),
    "qwen2": ("deepseek-r1-qwen", "hunyuan", "kormo", "megrez", "stablelm2"),
}
"""Names that are read only, by the name that cuts texts in the same way."""
KNOWN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
"""llama.cpp stops at these whatever the file says."""


def write_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, vocab_size: int) -> list[str]:
    """Write all keys of the tokenizer and the chat template; returns what llama.cpp does otherwise at the edges.

    CheckpointError for a tokenizer that is not byte-level BPE, or whose rules llama.cpp does not have.
    """
    source, tokenizer = read_folder(checkpoint), Tokenizer.load(checkpoint)
    described = json.loads(source.backend.to_str())
    try:
        notes = _check(described)
        pre = pre_tokenizer(described)
        tokens, types = _tokens(described, source, vocab_size)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    lacking = [text for text in source.appended if text not in tokens]
    notes += [f"{text!r} is not in the file: the model has no embedding for it" for text in lacking]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = described["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    named = {key: source.backend.token_to_id(text) for key, text in source.names.items()}
    begin = named.get("bos_token")
    bos = tokenizer.bos_id if begin is None else begin
    chat_ends = tokenizer.chat.end_ids if tokenizer.chat else tokenizer.end_ids
    ends = [named.get("eos_token"), *chat_ends, *source.stop_ids]
    eos, *others = dict.fromkeys(i for i in ends if i is not None and i < vocab_size)
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(_adds_bos(tokenizer))
    writer.add_add_eos_token(False)
    if tokenizer.pad_id < vocab_size:
        writer.add_pad_token_id(tokenizer.pad_id)
    # llama.cpp has three keys for ends, and needs none for those that it stops at anyway.
    others.sort(key=lambda i: tokens[i] in KNOWN_ENDS)
    for i, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(i)
    if lost := [tokens[i] for i in others[2:] if tokens[i] not in KNOWN_ENDS]:
        notes.append(f"llama.cpp has room for three end tokens and does not stop at {', '.join(map(repr, lost))}")
    if source.template is not None:
        given = {"bos_token": tokens[bos], "eos_token": tokens[eos]}
        writer.add_chat_template(portable_template(source.template, source.names, given))
    return notes


def _adds_bos(tokenizer: Tokenizer) -> bool:
    """Does a text begin with bos_token? llama.cpp takes one of the two off again where the template writes it, too."""
    if tokenizer.chat is not None and tokenizer.chat.template is None:
        return True
    asked = render(tokenizer, [Message(role="user", content="Ask")], add_generation_prompt=True)
    return asked.ids[0] == tokenizer.bos_id


def _check(described: Mapping[str, Any]) -> list[str]:
    """Refuse what is not byte-level BPE as llama.cpp has it; returns notes."""
    model, cutting = described["model"], [described["normalizer"], described["pre_tokenizer"]]
    if model["type"] != "BPE" or "▁" in json.dumps(cutting, ensure_ascii=False):
        raise CheckpointError(
            "only byte-level BPE tokenizers are exported; llama.cpp's own convert_hf_to_gguf.py also reads this folder and "
            "converts sentencepiece tokenizers"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise CheckpointError("llama.cpp has no prefix or suffix of subwords")
    steps = [step["type"] for step in _steps(described["normalizer"], "normalizers")]
    if other := next((step for step in steps if step != "NFC"), None):
        raise CheckpointError(f"llama.cpp normalises no text for byte-level BPE, the tokenizer has {other}")
    return ["llama.cpp does not compose characters (NFC): texts with decomposed ones get other tokens"] * bool(steps)


def pre_tokenizer(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rules by which a tokenizer.json cuts text before BPE; CheckpointError where it has none."""
    rules, shape = described["pre_tokenizer"], []
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


def _steps(rules: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as the list of its steps."""
    if rules is None:
        return []
    if rules["type"] != "Sequence":
        return [dict(rules)]
    return [inner for step in rules[key] for inner in _steps(step, key)]


def _tokens(described: Mapping[str, Any], source: Imported, vocab_size: int) -> tuple[list[str], list[int]]:
    """Texts and types of all ids; ids without a token (padding of the vocabulary) are UNUSED."""
    texts = {i: text for text, i in described["model"]["vocab"].items()}
    types = dict.fromkeys(texts, NORMAL)
    for token in described["added_tokens"]:
        i, text = token["id"], token["content"]
        if flag := next((flag for flag in ("lstrip", "rstrip", "single_word") if token[flag]), None):
            raise CheckpointError(f"the token {text!r} has the flag {flag}, which llama.cpp does not have")
        texts[i] = text
        types[i] = CONTROL if token["special"] or text in source.names.values() else USER_DEFINED
    for i, text in texts.items():
        if i >= vocab_size and text not in source.appended:
            raise CheckpointError(f"the token {text!r} has the id {i}, but the model has only {vocab_size} tokens")
    ids = range(vocab_size)
    return [texts.get(i, f"[PAD{i}]") for i in ids], [types.get(i, UNUSED) for i in ids]


def portable_template(template: str, names: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The template without {% generation %} tags, at which llama.cpp's parser stops, and with its variables set.

    llama.cpp sets those in ``given`` alone, bos_token and eos_token, and these two even where the tokenizer names none.
    """
    for tag, other in (("generation", "if true"), ("endgeneration", "endif")):
        template = re.sub(rf"{{%([-+]?)\s*{tag}\s*([-+]?)%}}", rf"{{%\1 {other} \2%}}", template)
    lines = [
        f"{{%- set {key} = {json.dumps(text, ensure_ascii=False)} %}}\n"  # the newline goes with the tag
        for key, text in (dict.fromkeys(given, "") | dict(names)).items()
        if given.get(key) != text and re.search(rf"\b{re.escape(key)}\b", template)
    ]
    return "".join(lines) + template
