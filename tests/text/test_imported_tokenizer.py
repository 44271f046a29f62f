"""Tokenizers of Hugging Face folders against transformers and sentencepiece themselves."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from chat_formats import CORPUS, FORMATS, Format, byte_pieces, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from tutelage.errors import CheckpointError
from tutelage.records import Message
from tutelage.text import SPECIALS, Tokenizer, render

transformers = pytest.importorskip("transformers")

GPT2 = (
    Path(os.environ.get("TUTELAGE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "tokenizers" / "gpt2"
)
BITS = [
    *CORPUS[:5],
    *(
        "Hello",
        " there",
        "world's",
        "你好",
        "，今天",
        "é",
        "e\u0301",
        "😀",
        "ﬁ",
        "①",
        "\u3000",
        "I'LL",
        "x" * 40,
        "1234567",
        "\x00",
    ),
    *(" ", "  ", "\n", "\n\n\n", "\t", "<b>", "</p>", "[x]", "|", "\r\n", "\u200b", "_", "Ünï"),
]


def random_texts(count: int, *, seed: int = 0, leading: bool = True) -> list[str]:
    rng = random.Random(seed)
    texts = ["".join(rng.choices(BITS, k=rng.choice([0, 1, 2, 3, 5, 8]))) for _ in range(count)]
    return texts if leading else [("q" + text).rstrip(" ") for text in texts]


def same_as(ours: Tokenizer, theirs, texts: list[str]) -> None:
    for text in texts:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]


def as_saved(ours: Tokenizer, folder: Path, texts: list[str]) -> None:
    """What ``save`` writes: AutoTokenizer reads it as the same tokenizer, and so do we."""
    ours.save(folder)
    theirs, again = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    same_as(ours, theirs, texts)
    assert again.fingerprint == ours.fingerprint
    assert (again.bos_id, again.pad_id, again.end_id) == (ours.bos_id, ours.pad_id, ours.end_id)
    assert (again.vocab_size, again.special_ids, again.appended) == (ours.vocab_size, ours.special_ids, ())
    assert theirs.pad_token_id == ours.pad_id
    assert len(theirs) == ours.vocab_size
    ours.require_same(folder)


@pytest.mark.parametrize(
    "name", ["llama-2", "mistral-large-2407", "gemma", "phi-3-mini", "llama-3", "qwen-2.5", "granite-3.0"]
)
def test_tokenizer_json(name, tmp_path):
    folder = write_folder(FORMATS[name], tmp_path / "theirs")
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    same_as(ours, theirs, random_texts(300))
    as_saved(ours, tmp_path / "ours", random_texts(50))
    spelt = "a".join(FORMATS[name].special)
    split = theirs(spelt, add_special_tokens=False, split_special_tokens=True).input_ids
    assert ours.encode(spelt) == split


def vocabulary_folder(folder: Path, **config: object) -> Path:
    """vocab.json and merges.txt of the trained byte-level pieces, with GPT-2's one token."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = byte_pieces()
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": len(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer"])
def test_vocab_and_merges(kind, tmp_path):
    folder = vocabulary_folder(tmp_path / "theirs", tokenizer_class=kind, eos_token="<|endoftext|>")
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    same_as(ours, theirs, random_texts(300))
    as_saved(ours, tmp_path / "ours", random_texts(50))
    end = len(byte_pieces()[0])
    assert (ours.bos_id, ours.end_id, ours.pad_id) == (end, end, end + 1)
    assert (ours.appended, ours.vocab_size) == (("<|pad|>",), end + 2)
    assert end not in ours.encode("<|endoftext|>")


def test_vocab_and_merges_without_a_configuration_are_gpt2s(tmp_path):
    ours = Tokenizer.load(vocabulary_folder(tmp_path))
    same_as(ours, transformers.GPT2Tokenizer.from_pretrained(tmp_path), random_texts(100))


def test_the_real_gpt2(tmp_path):
    if not (GPT2 / "vocab.json").exists():
        pytest.skip(f"needs GPT-2's vocab.json and merges.txt in {GPT2}: set TUTELAGE_SHARED_DATA")
    ours, theirs = Tokenizer.load(GPT2), transformers.GPT2Tokenizer.from_pretrained(GPT2)
    same_as(ours, theirs, random_texts(400, seed=1))
    assert ours.encode("Hello world") == [15496, 995]
    assert (ours.end_id, ours.pad_id, ours.vocab_size, ours.appended) == (50256, 50257, 50258, ("<|pad|>",))


def sentencepiece_folder(folder: Path, config: dict[str, object], **settings: object) -> Path:
    """A model trained by sentencepiece itself."""
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="sentencepiece, of the dev extra, trains the models of this test"
    )
    file = io.BytesIO()
    lines = [line for text in CORPUS for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        minloglevel=2,
        hard_vocab_limit=False,
        num_threads=1,
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(file.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


LLAMA = {
    "model_type": "bpe", "vocab_size": 520, "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "split_digits": True, "user_defined_symbols": ["<|mark|>"], "control_symbols": ["<ctl>"],
}  # fmt: skip


GEMMA = LLAMA | {"add_dummy_prefix": False, "user_defined_symbols": ["▁▁", "▁▁▁", "▁▁▁▁", "<|mark|>"]}
UNIGRAM = {"model_type": "unigram", "vocab_size": 300}


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, LLAMA),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": True}, LLAMA),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": False}, LLAMA),
        ({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}, LLAMA),
        ({"tokenizer_class": "GemmaTokenizer"}, GEMMA),
        ({"tokenizer_class": "T5Tokenizer"}, UNIGRAM),
    ],
)
def test_sentencepiece_as_transformers_reads_it(config, settings, tmp_path):
    """transformers converts the file for us too; saved and read again, it is still the same tokenizer."""
    folder = sentencepiece_folder(tmp_path / "theirs", config, **settings)
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    same_as(ours, theirs, random_texts(300))
    as_saved(ours, tmp_path / "ours", random_texts(50) if settings is LLAMA else [])
    assert (tmp_path / "ours" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    assert ours.end_id == theirs.eos_token_id
    if config == {"tokenizer_class": "LlamaTokenizer"}:  # sentencepiece itself
        sentencepiece = pytest.importorskip("sentencepiece")
        library = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
        for text in random_texts(100, leading=False):  # transformers adds no space before spaces
            assert ours.encode(text) == library.encode(text)
        assert (ours.bos_id, ours.end_id, ours.pad_id) == (1, 2, 0)


def test_what_transformers_cannot_convert_is_said(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="transformers cannot read its tokenizer"):
        Tokenizer.load(tmp_path)
    folder = sentencepiece_folder(tmp_path / "nameless", {}, **LLAMA)
    with pytest.raises(CheckpointError, match=r'nothing says how its tokenizer writes spaces.*"LlamaTokenizer"'):
        Tokenizer.load(folder)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match=r"pip install 'tutelage\[convert\]' .sentencepiece is missing"):
        Tokenizer.load(folder)


@cache
def unigram() -> Tokenizer:
    """A model whose lattice knows its control tokens as pieces like any other."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<ctl>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁Helo</s>",
        "▁He",
        "llo",
        "</",
    ]
    model = models.Unigram([(piece, -float(len(piece) < 3)) for piece in pieces], unk_id=0, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence(list(steps))
    backend.add_special_tokens(pieces[:4])
    with tempfile.TemporaryDirectory() as folder:
        backend.save(f"{folder}/tokenizer.json")
        edited(Path(folder), "tokenizer_config.json", eos_token="</s>", unk_token="<unk>")
        return Tokenizer.load(Path(folder))


@given(
    st.lists(st.sampled_from(["</s>", "<s>", "<ctl>", "<", "/", "s", ">", " ", "▁", "Hello", "<unk>"]), max_size=8).map(
        "".join
    )
)
@settings(max_examples=200)
def test_a_unigram_model_makes_no_control_token_of_plain_pieces(text):
    """``encode`` has to cut control tokens that the model makes."""
    ours = unigram()
    ids = ours.encode(text)
    assert not {1, 2, 3} & set(ids)
    if 0 not in ids:
        assert ours.decode(ids) == text.replace("▁", " ").removeprefix(" " if text.startswith((" ", "▁")) else "")


def test_a_folder_of_adapters_is_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds only adapters, which need their base model"):
        Tokenizer.load(tmp_path)


def edited(folder: Path, name: str, **changes: object) -> Path:
    """A folder's JSON file with other values; None takes a key out."""
    path = folder / name
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data = {k: v for k, v in (data | changes).items() if v is not None}
    path.write_text(json.dumps(data), encoding="utf-8")
    return folder


def token(ours: Tokenizer, text: str) -> int:
    return ours.chat.source.backend.token_to_id(text)


@pytest.mark.parametrize(
    ("special", "names", "pad"),
    [
        (("</s>", "<pad>", "<unk>"), {"pad_token": "<unk>"}, "<unk>"),  # what is named
        (
            ("</s>", "<unk>", "<|finetune_right_pad_id|>"),
            {"pad_token": "</s>"},
            "<|finetune_right_pad_id|>",
        ),  # but never the end
        (("</s>", "<unk>", "<|reserved_1|>", "[unused0]"), {}, "<|reserved_1|>"),
        (("</s>", "<unk>", "<s>"), {"unk_token": "<unk>"}, "<unk>"),
        (("</s>", "<s>"), {}, "<|pad|>"),
        (("</s>", "<s>"), {"unk_token": "</s>"}, "<|pad|>"),
    ],
)
def test_padding(special, names, pad, tmp_path):
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ '</s>' if m.role == 'assistant' }}{% endfor %}"
    format = Format(template, "bytes", special, tuple(({"eos_token": "</s>"} | names).items()), "</s>")
    ours = Tokenizer.load(write_folder(format, tmp_path / "theirs"))
    assert ours.pad_id == token(ours, pad) != ours.end_id
    assert ours.appended == (("<|pad|>",) if pad == "<|pad|>" else ())
    assert ours.vocab_size == len(byte_pieces()[0]) + len(special) + len(ours.appended)
    as_saved(ours, tmp_path / "ours", random_texts(20))


def test_a_reserved_token_that_the_template_writes_is_no_padding(tmp_path):
    template = "{% for m in messages %}<|reserved_0|>{{ m.content }}</s>{% endfor %}"
    format = Format(template, "bytes", ("</s>", "<|reserved_0|>", "<|reserved_1|>"), (("eos_token", "</s>"),), "</s>")
    ours = Tokenizer.load(write_folder(format, tmp_path))
    assert ours.pad_id == token(ours, "<|reserved_1|>")


def test_which_tokens_end_an_answer(tmp_path):
    """The one that the template writes comes first, then eos_token, then what the model's own configuration stops at."""
    folder = write_folder(FORMATS["gemma"], tmp_path)
    ours = Tokenizer.load(folder)
    end, eos = token(ours, "<end_of_turn>"), token(ours, "<eos>")
    assert (ours.end_id, ours.end_ids, ours.chat.end_ids) == (end, {end, eos}, (end, eos))
    edited(folder, "config.json", eos_token_id=token(ours, "<b>"))
    assert Tokenizer.load(folder).end_ids == {end, eos, token(ours, "<b>")}
    edited(folder, "generation_config.json", eos_token_id=[eos, end, token(ours, "<table>"), 10**6])
    assert Tokenizer.load(folder).chat.end_ids == (end, eos, token(ours, "<table>"))
    bare = write_folder(dataclasses.replace(FORMATS["llama-2"], names=()), tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"which token ends an answer.*eos_token"):
        Tokenizer.load(bare)


def test_a_token_that_begins_documents(tmp_path):
    ours = Tokenizer.load(write_folder(FORMATS["llama-2"], tmp_path / "a"))
    assert ours.bos_id == token(ours, "<s>")
    ours = Tokenizer.load(write_folder(FORMATS["qwen-2"], tmp_path / "b"))  # names none
    assert ours.bos_id == token(ours, "<|endoftext|>") != ours.end_id


def test_templates_by_name_and_in_files(tmp_path):
    """The file before the configuration's key; of several by name the default one, which is written back."""
    messages = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi")]
    folder = write_folder(FORMATS["llama-3"], tmp_path / "key", template_file=False)
    expected = render(Tokenizer.load(write_folder(FORMATS["llama-3"], tmp_path / "file")), messages)
    assert render(Tokenizer.load(folder), messages) == expected
    other = "{% for m in messages %}{{ m.content + '<|eot_id|>' }}{% endfor %}"
    named = [{"name": "tool_use", "template": other}, {"name": "default", "template": FORMATS["llama-3"].template}]
    edited(folder, "tokenizer_config.json", chat_template=named)
    ours = Tokenizer.load(folder)
    assert render(ours, messages) == expected
    ours.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs.chat_template == FORMATS["llama-3"].template
    assert render(Tokenizer.load(tmp_path / "saved"), messages) == expected
    edited(folder, "tokenizer_config.json", chat_template=[named[0]])
    assert Tokenizer.load(folder).chat.template.source == other
    edited(folder, "tokenizer_config.json", chat_template=[named[0], {"name": "rag", "template": other}])
    with pytest.raises(CheckpointError, match="rag, tool_use, and none is the default"):
        Tokenizer.load(folder)
    (folder / "chat_template.jinja").write_text(other, encoding="utf-8")
    assert Tokenizer.load(folder).chat.template.source == other


def test_tokens_that_only_the_configuration_has(tmp_path):
    """added_tokens_decoder, special_tokens_map.json and named tokens are added as transformers adds them."""
    folder = write_folder(FORMATS["qwen-2"], tmp_path / "theirs")
    size = Tokenizer.load(folder).vocab_size
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    table = {
        str(size): {"content": "<|new|>", "normalized": False, "special": True, **flags},
        str(size + 1): {"content": "<word>", "normalized": True, "special": False, **flags},
    }
    edited(
        folder,
        "tokenizer_config.json",
        added_tokens_decoder=table,
        mask_token="<|mask|>",
        additional_special_tokens=["<|x|>"],
    )
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.appended == ("<word>", "<|mask|>", "<|new|>", "<|x|>")
    assert [token(ours, t) for t in ("<|new|>", "<word>", "<|mask|>", "<|x|>")] == list(range(size, size + 4))
    same_as(ours, theirs, [*random_texts(50), "a <word> b", "<word>"])
    for special in ("<|new|>", "<|mask|>", "<|x|>"):
        assert theirs(special).input_ids == [token(ours, special)]
        assert token(ours, special) not in ours.encode(special)
    as_saved(ours, tmp_path / "ours", ["a <word> b"])
    table[str(size + 7)] = table.pop(str(size + 1))
    edited(folder, "tokenizer_config.json", added_tokens_decoder=table)
    with pytest.raises(CheckpointError, match=r"'<word>' should have the id \d+ and has .* do not belong together"):
        Tokenizer.load(folder)
    old = edited(
        write_folder(FORMATS["llama-2"], tmp_path / "old"),
        "tokenizer_config.json",
        bos_token=None,
        eos_token=None,
        unk_token=None,
    )
    edited(old, "special_tokens_map.json", bos_token={"content": "<s>", **flags, "normalized": False}, eos_token="</s>")
    ours = Tokenizer.load(old)
    assert (ours.bos_id, ours.end_id) == (token(ours, "<s>"), token(ours, "</s>"))


def test_padding_and_truncation_of_the_file_are_off(tmp_path):
    """Some folders were saved with both on: texts would be cut, and batches padded, in silence."""
    folder = write_folder(FORMATS["llama-3"], tmp_path)
    plain = Tokenizer.load(folder)
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    edited(folder, "tokenizer.json", truncation=truncation, padding=padding)
    texts = random_texts(20)
    assert Tokenizer.load(folder).encode_batch(texts) == plain.encode_batch(texts)


def test_our_own_is_still_our_own(tmp_path):
    """A folder of ours has no ChatFormat, with or without its template; require_same tells the two apart."""
    own = Tokenizer.train(CORPUS, 400)
    own.save(tmp_path / "own")
    assert Tokenizer.load(tmp_path / "own").chat is None
    shutil.copytree(tmp_path / "own", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    bare = Tokenizer.load(tmp_path / "bare")
    assert (bare.chat, bare.fingerprint) == (None, own.fingerprint)
    assert own.end_ids == {own.end_id}
    assert own.appended == ()
    write_folder(FORMATS["llama-2"], tmp_path / "other")
    with pytest.raises(CheckpointError, match="another tokenizer"):
        own.require_same(tmp_path / "other")
    other = dataclasses.replace(FORMATS["llama-2"], template=FORMATS["mistral-v0.2"].template)
    with pytest.raises(CheckpointError, match="another tokenizer"):  # the same vocabulary, another template: other ids
        Tokenizer.load(tmp_path / "other").require_same(write_folder(other, tmp_path / "template"))
    assert list(SPECIALS) == ["bos", "pad", "end", "system", "user", "assistant"]


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")
    folder = write_folder(FORMATS["llama-2"], tmp_path / "damaged")
    for name, data, words in [
        ("tokenizer_config.json", b"{", "tokenizer_config.json cannot be read: "),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json must hold a JSON object, not list"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}', "not the configuration of a tokenizer"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}', "not the configuration of a tokenizer"),
        ("tokenizer.json", b"{}", "tokenizer.json: not a tokenizer"),
    ]:
        kept = (folder / name).read_bytes()
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        (folder / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=words) as caught:
            Tokenizer.load(folder)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(kept)
    words = vocabulary_folder(tmp_path / "words", tokenizer_class="GPT2Tokenizer")
    (words / "merges.txt").write_text("a b c\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="transformers cannot read its tokenizer"):
        Tokenizer.load(words)


def test_a_control_token_of_one_character(tmp_path):
    """A special token that is also a piece is spelt in bytes where a text has it."""
    format = dataclasses.replace(FORMATS["mistral-large-2407"], special=(*FORMATS["mistral-large-2407"].special, "e"))
    ours = Tokenizer.load(write_folder(format, tmp_path))
    assert token(ours, "e") not in ours.encode("xex")
    assert ours.decode(ours.encode("xex")) == "xex"
