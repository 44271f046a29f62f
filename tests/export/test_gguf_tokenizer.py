"""Tokenizers, templates and end tokens of GGUF files in llama.cpp itself: the same ids, or a refusal, or a note."""

from __future__ import annotations

import functools
import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from gguf_server import ask, export_gguf, greedy, llama_cpp
from text.chat_formats import CORPUS, FORMATS, byte_pieces, write_folder
from tokenizers import decoders, models, pre_tokenizers, trainers

from tutelage.errors import CheckpointError
from tutelage.export.gguf_tokenizer import PRE_TOKENIZERS, portable_template
from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.records import Message
from tutelage.text import PLAIN_TEMPLATE
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")
PARTS = [
    *CORPUS[:5], "Hello", " there", "world's", "I'LL", "你好", "，今天", "😀", "é", "e\u0301", "ﬁ", "①", "\u3000", "x" * 40,
    "1234567", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", "\x00", "\u200b", "_", "<b>", "</p>", "[x]", "|", "a▁b", "Ünï",
]  # fmt: skip
CONTROLS = ["<s>", "</s>", "<ctl>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "[INST]"]


def texts(*, begun: bool = False, composed: bool = False, controls: bool = True) -> list[str]:
    """Whatever a user may type; ``begun``: texts that begin with a letter; ``composed``: in NFC."""
    rng = random.Random(5)
    found = ["", *PARTS, *("".join(rng.choices(PARTS, k=rng.choice([2, 3, 5, 8]))) for _ in range(150))]
    found += [f"a{text}{other} b" for text in CONTROLS for other in CONTROLS[:3]] if controls else []
    found = ["q" + text for text in found] if begun else found
    return [unicodedata.normalize("NFC", text) for text in found] if composed else found


def with_model(folder: Path, missing: int = 0) -> Tokenizer:
    """Put a small model for the tokenizer into its folder; with so many tokens fewer than the tokenizer has."""
    tokenizer = Tokenizer.load(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size - missing,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        max_position_embeddings=128,
    )
    save_model(folder, Decoder(config))
    return tokenizer


def same_tokens(
    folder: Path, checked: list[str], dialogues: Sequence[Sequence[Message]] = (), missing: int = 0
) -> list[str]:
    """llama.cpp cuts texts as we do, and its template's prompts are ours; returns the export's notes."""
    tokenizer = with_model(folder, missing)
    notes = export_gguf(folder, folder / "model.gguf")
    server = llama_cpp(folder / "model.gguf")
    for text in checked:
        found = ask(server, "/tokenize", content=text, parse_special=False)["tokens"]
        assert found == tokenizer.encode(text), text
    for messages in dialogues:
        sent = [{"role": message.role, "content": message.content} for message in messages]
        prompt = ask(server, "/apply-template", messages=sent)["prompt"]
        found = ask(server, "/tokenize", content=prompt, parse_special=True, add_special=True)["tokens"]
        assert found == render(tokenizer, messages, add_generation_prompt=True).ids, prompt
    return notes


DIALOGUES = [
    [Message(role="user", content="Hello  there, 12")],
    [
        Message(role="system", content="Be kind."),
        Message(role="user", content="她在\nhere?"),
        Message(role="assistant", content="Yes.\n\n- 12"),
        Message(role="user", content="So?"),
    ],
]
BYTES = [
    "phi-3-small",
    "llama-3",
    "llama-3.2",
    "granite-3.0",
    "deepseek-v2",
    "command-r",
    "qwen-2",
    "qwen-2.5",
    "qwen-3",
]


@pytest.mark.parametrize("name", BYTES)
def test_byte_level_tokenizers_of_real_kinds(name, tmp_path):
    """Their own chat templates too. Qwen's composes characters and llama.cpp does not, which is a note."""
    composes = name.startswith("qwen")
    notes = same_tokens(write_folder(FORMATS[name], tmp_path), texts(composed=composes), DIALOGUES)
    assert [note.split()[:4] for note in notes] == [["llama.cpp", "does", "not", "compose"]] * composes


def odd_text(rng: random.Random) -> str:
    """Characters of every kind that Unicode has, side by side."""
    ordinary = "abAB12 \n'.,\t  sT"
    return "".join(rng.choice(odd() if rng.random() < 0.5 else ordinary) for _ in range(rng.choice([3, 8, 20])))


@functools.cache
def odd() -> list[str]:
    kinds: dict[str, list[str]] = {}
    for code in [*range(1, 0xD800), *range(0xE000, 0x30000)]:
        kinds.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    rng = random.Random(0)
    return [c for kind in sorted(kinds) if kind != "Cn" for c in rng.sample(kinds[kind], min(len(kinds[kind]), 40))]


@functools.cache
def across() -> dict:
    """Byte-level BPE that joins whatever stands side by side: wherever a text is cut, its ids are others.

    Its last token is a word that no merges make.
    """
    rng, backend = random.Random(1), tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        initial_alphabet=backend.pre_tokenizer.alphabet(),
        show_progress=False,
        special_tokens=["<|endoftext|>"],
    )
    backend.train_from_iterator([odd_text(rng) for _ in range(4000)], trainer)
    described = json.loads(backend.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary["zzz"] = len(vocabulary)
    return described


def test_texts_are_cut_as_in_llama_cpp(tmp_path):
    """All pre-tokenizers, on characters of all kinds; each cuts some texts as no other does."""
    rng = random.Random(2)
    checked, ours = [*(odd_text(rng) for _ in range(150)), "zzz"], {}
    for (shape, whole_words), name in PRE_TOKENIZERS.items():
        steps = [step_of(kind) for kind in shape]
        described = across() | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
        described["model"] = described["model"] | {"ignore_merges": whole_words}
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
        changed(tmp_path / name, "tokenizer_config.json", eos_token="<|endoftext|>")
        assert same_tokens(tmp_path / name, checked) == []
        assert gguf.GGUFReader(tmp_path / name / "model.gguf").fields["tokenizer.ggml.pre"].contents() == name
        ours[name] = Tokenizer.load(tmp_path / name).encode_batch(checked)
    for name, rows in ours.items():
        assert all(rows != others for other, others in ours.items() if other != name), name


def step_of(kind: str) -> dict:
    if kind in ("words", "bytes"):
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": kind == "words"}
    if kind == "digits":
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": kind}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocab_and_merges(kind, tmp_path):
    """GPT-2's files. The padding that we append stands in the file if the model has a row for it, else not."""
    vocabulary, merges = byte_pieces()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": len(vocabulary)}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, merges)), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}), encoding="utf-8")
    notes = same_tokens(tmp_path, texts(composed=True), missing=1)
    assert len(notes) == (kind == "Qwen2Tokenizer")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.pre"].contents() == ("gpt-2" if kind == "GPT2Tokenizer" else "qwen2")
    assert "tokenizer.ggml.padding_token_id" not in fields
    # A text alone begins with the token that begins documents, as it does here.
    begun = ask(llama_cpp(tmp_path / "model.gguf"), "/tokenize", content="a", add_special=True)["tokens"]
    assert begun == [len(vocabulary), vocabulary["a"]]


def test_sentencepiece_is_left_to_llama_cpp(tmp_path):
    refused(write_folder(FORMATS["llama-2"], tmp_path / "bpe"), "convert_hf_to_gguf.py")
    refused(write_folder(FORMATS["gemma"], tmp_path / "gemma"), "only byte-level BPE tokenizers are exported")


def changed(folder: Path, name: str, **changes: object) -> None:
    """Other values in a JSON file of the folder."""
    path = folder / name
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("normalizer", lambda _: {"type": "Lowercase"}, "normalises no text for byte-level BPE, the tokenizer has Lowercase"),
        ("pre_tokenizer", lambda _: step_of("words") | {"add_prefix_space": True}, "no name for this pre-tokenizer: .*ByteLevel"),
        ("pre_tokenizer", lambda _: {"type": "Whitespace"}, "no name for this pre-tokenizer: .*Whitespace"),
        ("model", lambda _: {"ignore_merges": True}, "no name for this pre-tokenizer with ignore_merges"),
        ("model", lambda _: {"end_of_word_suffix": "</w>"}, "no prefix or suffix of subwords"),
        ("added_tokens", lambda old: [old["added_tokens"][0] | {"rstrip": True}], r"'<\|endoftext\|>' has the flag rstrip"),
    ],
)  # fmt: skip
def test_byte_level_tokenizers_that_llama_cpp_does_not_have_are_refused(part, change, words, tmp_path):
    refused(edited(write_folder(FORMATS["phi-3-small"], tmp_path), part, change), words)


def edited(folder: Path, part: str, change) -> Path:
    """Another part of the tokenizer.json, which a folder with other files gets."""
    described = json.loads(Tokenizer.load(folder).chat.source.backend.to_str())
    new = change(described)
    described[part] = described[part] | new if part == "model" else new
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    changed(folder, "tokenizer_config.json", eos_token=described["added_tokens"][-1]["content"])
    return folder


def refused(folder: Path, words: str, missing: int = 0) -> None:
    with_model(folder, missing)
    with pytest.raises(CheckpointError, match=words):
        export_gguf(folder, folder / "x.gguf")
    assert not list(folder.glob("*x.gguf*"))


def test_a_token_for_which_the_model_has_no_embedding_is_refused(tmp_path):
    folder = write_folder(FORMATS["qwen-2.5"], tmp_path)
    refused(folder, r"the token '<\|fim_prefix\|>' has the id \d+, but the model has only \d+ tokens", missing=1)


def test_all_end_tokens_stop_llama_cpp(tmp_path):
    """Three by their ids, any number of those that llama.cpp knows by their texts; a note says which are too many."""
    folder = write_folder(FORMATS["qwen-2.5"], tmp_path)
    tokenizer = with_model(folder)
    ids = {
        text: tokenizer.chat.source.backend.token_to_id(text)
        for text in ("<|endoftext|>", "<tool_call>", "</tool_call>", "a")
    }
    changed(folder, "generation_config.json", eos_token_id=[tokenizer.end_id, *ids.values()])
    assert Tokenizer.load(folder).end_ids == {tokenizer.end_id, *ids.values()}
    note = export_gguf(folder, tmp_path / "model.gguf")[-1]
    assert note == "llama.cpp has room for three end tokens and does not stop at 'a'"
    server = llama_cpp(tmp_path / "model.gguf")

    def stops_at(i: int) -> bool:
        return len(greedy(server, [5, 6], 3, logit_bias=[[i, 1000]])) == 1

    found = {i for i in range(tokenizer.vocab_size) if stops_at(i)}
    assert found == {tokenizer.end_id, *ids.values()} - {ids["a"]}


def test_templates_with_tags_and_variables_that_llama_cpp_does_not_have(tmp_path):
    """{% generation %}, a token by another name, and a tokenizer without a token that begins texts."""
    marked = "{% for m in messages %}{{ mask_token }}{{ m.role }}{%- generation -%} {{ m.content }}{% endgeneration %}{% endfor %}"
    for number, template in enumerate((PLAIN_TEMPLATE, marked + "<|im_end|>{{ bos_token }}")):
        folder = write_folder(FORMATS["qwen-2"], tmp_path / str(number))
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        changed(folder, "tokenizer_config.json", mask_token='<|"mask"|>')
        same_tokens(folder, [], DIALOGUES)
        fields = gguf.GGUFReader(folder / "model.gguf").fields
        assert "generation %}" not in fields["tokenizer.chat_template"].contents().replace("add_generation", "")
    assert portable_template("{{ bos_token }}", {"bos_token": "<s>"}, {"bos_token": "<s>"}) == "{{ bos_token }}"
