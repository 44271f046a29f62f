"""Tokenizers of GGUF files, imported: the ids, prompts and ends of the folder that was exported, and those of llama.cpp."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from gguf_files import imported, rewritten
from gguf_server import ask, export_gguf, llama_cpp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gguf_export import checkpoint
from test_gguf_tokenizer import BYTES, DIALOGUES, across, changed, odd_text, step_of, texts, with_model
from text.chat_formats import CORPUS, FORMATS, write_folder

from tutelage.errors import CheckpointError
from tutelage.export.gguf import tensors
from tutelage.export.gguf_settings import add_settings
from tutelage.export.gguf_tokenizer import ALIASES, PRE_TOKENIZERS, pre_tokenizer
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("good")
    export_gguf(checkpoint(place / "model", "llama", True), place / "a.gguf", "f32")
    return place / "a.gguf"


@pytest.mark.parametrize("name", BYTES)
def test_tokenizers_of_real_kinds_come_back(name, tmp_path):
    """Ids of any text, prompts and ends; llama.cpp's ids too. Nothing in a file says that Qwen's composes characters."""
    folder = write_folder(FORMATS[name], tmp_path / "model")
    source = with_model(folder)
    export_gguf(folder, tmp_path / "a.gguf")
    assert imported(tmp_path / "a.gguf", tmp_path / "back") == []
    back = Tokenizer.load(tmp_path / "back")
    assert back.end_ids >= source.end_ids
    for messages in DIALOGUES:
        ours, theirs = (render(one, messages, add_generation_prompt=True) for one in (back, source))
        assert ours.ids == theirs.ids
    server = llama_cpp(tmp_path / "a.gguf")
    for text in texts()[::3]:
        assert back.encode(text) == ask(server, "/tokenize", content=text, parse_special=False)["tokens"], text

    @settings(max_examples=200)
    @given(st.text())
    def same(text: str) -> None:
        if not name.startswith("qwen") or text.isascii():
            assert back.encode(text) == source.encode(text)

    same()


@pytest.mark.parametrize("name", ["llama-3", "qwen-2.5", "phi-3-small"])
def test_a_tokenizer_equals_what_transformers_reads(name, tmp_path):
    """With the tokens that a text begins with."""
    transformers = pytest.importorskip("transformers")
    folder = write_folder(FORMATS[name], tmp_path / "model")
    with_model(folder)
    export_gguf(folder, tmp_path / "a.gguf")
    imported(tmp_path / "a.gguf", tmp_path / "back")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in texts(controls=False):  # theirs has tokens such as <s> that the file does not have
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    chat = [{"role": "user", "content": "Ask"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)


@pytest.mark.slow
def test_pre_tokenizers_by_other_names_cut_as_in_llama_cpp(tmp_path, good):
    """Each name that is read is llama.cpp's name for the same; a file without a name is cut as llama.cpp does then."""
    rng = random.Random(7)
    checked = [*(odd_text(rng) for _ in range(60)), "zzz", "a  123 4567\n\n x"]
    pieces = across()["model"]  # the first thousand: files of many pieces take seconds to write
    vocabulary = {text: i for text, i in pieces["vocab"].items() if i < 1000} | {"zzz": 1000}
    small = pieces | {"vocab": vocabulary, "merges": [m for m in pieces["merges"] if "".join(m) in vocabulary]}
    for (shape, whole_words), name in PRE_TOKENIZERS.items():
        described = across() | {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [step_of(kind) for kind in shape]}
        }
        described["model"] = small | {"ignore_merges": whole_words}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
        changed(folder, "tokenizer_config.json", eos_token="<|endoftext|>")
        wanted = with_model(folder).encode_batch(checked)
        export_gguf(folder, folder / "a.gguf")
        for other in [*ALIASES.get(name, ()), *([None] if name == "default" else [])]:
            keys = {"tokenizer.ggml.pre": other}
            server = llama_cpp(rewritten(folder / "a.gguf", folder / "b.gguf", keys=keys))
            found = [ask(server, "/tokenize", content=text, parse_special=False)["tokens"] for text in checked]
            assert found == wanted, other
            notes = imported(rewritten(good, folder / "c.gguf", keys=keys), folder / str(other))
            assert [note[:32] for note in notes] == ["the file names no pre-tokenizer:"] * (other is None)
            assert pre_tokenizer(json.loads((folder / str(other) / "tokenizer.json").read_text())) == name


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_is_read_as_llama_cpp_reads_it(prefix, tmp_path):
    """Pieces, scores and bytes as sentencepiece learns them; its own reading is a third opinion. Not exported again."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    pieces_of = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS * 10), encoding="utf-8")
    trainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "spm"), vocab_size=640, hard_vocab_limit=False,
        model_type="bpe", byte_fallback=True, add_dummy_prefix=prefix, user_defined_symbols=["<tool>"],
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    learned = pieces_of.ModelProto.FromString((tmp_path / "spm.model").read_bytes())
    own = [(piece.piece, piece.score, piece.type) for piece in learned.pieces]
    tokens, scores, types = zip(*own, ("<|im_start|>", -1e4, 3), ("<|im_end|>", -1e4, 3), strict=True)
    config = ModelConfig(vocab_size=len(tokens), hidden_size=32, num_layers=1, num_heads=2)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    add_settings(writer, config)
    for add, values in (
        (writer.add_tokenizer_model, "llama"), (writer.add_token_list, list(tokens)), (writer.add_token_scores, list(scores)),
        (writer.add_token_types, list(types)), (writer.add_add_space_prefix, prefix), (writer.add_eos_token_id, len(tokens) - 1),
        (writer.add_chat_template, FORMATS["chatml"].template),
    ):  # fmt: skip
        add(values)
    for name, tensor in tensors(Decoder(config)).items():
        writer.add_tensor(name, tensor.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert imported(tmp_path / "a.gguf", tmp_path / "back") == []
    back, server, rng = Tokenizer.load(tmp_path / "back"), llama_cpp(tmp_path / "a.gguf"), random.Random(3)
    sentencepiece = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    for text in [*texts(controls=False), *(odd_text(rng) for _ in range(100)), "a<tool> b <tool>"]:
        ids = back.encode(text)
        assert ids == ask(server, "/tokenize", content=text, parse_special=False)["tokens"], text
        if "<tool>" not in text:  # after one, llama.cpp writes a space again, and sentencepiece does not
            assert ids == sentencepiece.encode(text), text
            assert back.decode(ids) == text.replace("▁", " ")
    for messages in DIALOGUES:
        sent = [{"role": message.role, "content": message.content} for message in messages]
        prompt = ask(server, "/apply-template", messages=sent)["prompt"]
        found = ask(server, "/tokenize", content=prompt, parse_special=True)["tokens"]
        assert found == render(back, messages, add_generation_prompt=True).ids, prompt
    transformers = pytest.importorskip("transformers")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "back")("a")["input_ids"] == [1, *back.encode("a")]
    assert back.end_ids == {len(tokens) - 1}
    with pytest.raises(CheckpointError, match="only byte-level BPE tokenizers are exported"):
        export_gguf(tmp_path / "back", tmp_path / "b.gguf")


def test_an_ordinary_token_that_a_file_names_stays_one(good, tmp_path):
    """Some name "!" as the unknown token; only ends are special by being named."""
    tokens = gguf.GGUFReader(good).fields["tokenizer.ggml.tokens"].contents()
    named = {"tokenizer.ggml.unknown_token_id": tokens.index("!"), "tokenizer.ggml.eot_token_id": tokens.index("a")}
    imported(rewritten(good, tmp_path / "b.gguf", keys=named), tmp_path / "back")
    back = Tokenizer.load(tmp_path / "back")
    assert back.encode("!") == [tokens.index("!")]
    assert "unk_token" not in json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"] == [
        2,
        tokens.index("a"),
    ]


def test_tokens_that_fill_up_the_vocabulary_are_left_out(tmp_path):
    """[PAD7] and the like, which converters call unused or the user's: a text that spells one is a text."""
    folder = write_folder(FORMATS["qwen-2.5"], tmp_path / "model")
    tokenizer = Tokenizer.load(folder)
    config = ModelConfig(vocab_size=tokenizer.vocab_size + 3, hidden_size=32, num_layers=1, num_heads=2)
    save_model(folder, Decoder(config))
    export_gguf(folder, tmp_path / "a.gguf")
    types = gguf.GGUFReader(tmp_path / "a.gguf").fields["tokenizer.ggml.token_type"].contents()
    types[-1] = 4
    imported(
        rewritten(tmp_path / "a.gguf", tmp_path / "b.gguf", keys={"tokenizer.ggml.token_type": types}),
        tmp_path / "back",
    )
    back = Tokenizer.load(tmp_path / "back")
    assert back.vocab_size == tokenizer.vocab_size
    assert load_decoder(tmp_path / "back").config.vocab_size == config.vocab_size
    assert len(back.encode(f"[PAD{config.vocab_size - 1}]")) > 1
