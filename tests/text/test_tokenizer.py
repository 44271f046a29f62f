import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import CheckpointError, UsageError
from tutelage.text import SPECIALS, Tokenizer

CORPUS = [
    "The old captain sailed to the harbour and said nothing for a long while.",
    "他们说汉语，也说英语。天下皆知美之为美，斯恶已。",
    "12 + 30 = 42, and 7 * 6 = 42.",
    "def add(a, b):\n    return a + b\n",
] * 8

any_text = st.text(st.characters(exclude_categories=["Cs"]))
# Pieces that spell control tokens, whole or in part, between other text.
tricky_text = st.lists(st.one_of(st.sampled_from([*SPECIALS.values(), "<|", "|>", "end", " "]), any_text)).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CORPUS, 400)


@given(tricky_text)
@settings(max_examples=300)
def test_any_text_round_trips_and_never_makes_a_control_id(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special_ids & set(ids)


def test_every_character_of_the_first_two_planes_round_trips(tokenizer):
    for start in range(0, 0x20000, 0x1000):
        text = "".join(chr(c) for c in range(start, start + 0x1000) if not 0xD800 <= c < 0xE000)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_ids_are_six_distinct_ones_at_the_front(tokenizer):
    ids = [getattr(tokenizer, f"{name}_id") for name in SPECIALS]
    assert ids == [0, 1, 2, 3, 4, 5]
    assert tokenizer.special_ids == set(ids)
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("hi"), tokenizer.end_id]) == "hi"


def test_merges_are_learnt_in_both_languages_and_digits_stay_single(tokenizer):
    assert len(tokenizer.encode(" captain")) == 1
    assert len(tokenizer.encode("天下皆知")) < len("天下皆知".encode())
    assert len(tokenizer.encode("123456")) == 6
    assert tokenizer.encode("42")[0] == tokenizer.encode("4 = 4")[-1]  # a digit is the same token after a space


def test_encode_batch_is_encode(tokenizer):
    texts = ["", "hello", "<|end|>", "他们说", "a\x00b"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_lone_surrogate_is_named(tokenizer):
    with pytest.raises(UsageError, match=r"surrogate '\\ud800' at character 2"):
        tokenizer.encode("ab\ud800")


def test_vocabulary_too_small():
    assert Tokenizer.train(CORPUS, 262).vocab_size == 262
    with pytest.raises(UsageError, match="262"):
        Tokenizer.train(CORPUS, 261)


def test_training_is_deterministic_across_processes(tmp_path):
    code = (
        "import sys; from tests_corpus import CORPUS; from tutelage.text import Tokenizer; "
        "Tokenizer.train(CORPUS, 380).save(sys.argv[1])"
    )
    (tmp_path / "tests_corpus.py").write_text(f"CORPUS = {CORPUS!r}", encoding="utf-8")
    for name, threads in (("a", "1"), ("b", "4")):
        environment = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "RAYON_NUM_THREADS": threads, "PATH": ""}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, env=environment)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_save_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "made" / "here")
    again = Tokenizer.load(tmp_path / "made" / "here")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode("<|end|> and 他们") == tokenizer.encode("<|end|> and 他们")
    assert not list(tmp_path.rglob("*.tmp"))


def test_load_errors(tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(tmp_path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[: len(whole) // 2], encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
    data = json.loads(whole)
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] != "<|end|>"]
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: .*<\|end\|>"):
        Tokenizer.load(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.load(tmp_path)
