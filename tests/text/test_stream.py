"""Incremental decoding against the decoding of all ids at once."""

from __future__ import annotations

from functools import cache

import pytest
import tokenizers
from chat_formats import CORPUS, FORMATS, backend_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from tutelage.text import Tokenizer
from tutelage.text.stream import Rules, TextStream, token_bytes

SPACES = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
DECODERS = {
    "metaspace": decoders.Metaspace("▁", "first"),
    "bytes and metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "always")]),
    "nested": decoders.Sequence([decoders.Sequence([*SPACES[:2]]), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    "none": None,
    "two spaces off": decoders.Sequence([*SPACES, decoders.Strip(" ", 2, 0)]),
    "across tokens": decoders.Sequence([*SPACES, decoders.Replace("ab", "c")]),
    "word piece": decoders.WordPiece("##", True),
}


@cache
def ours() -> Tokenizer:
    return Tokenizer.train(CORPUS, 400)


@cache
def backends() -> dict[str, tokenizers.Tokenizer]:
    """Our own tokenizer, those of real models' kinds, and one for each other decoder."""
    found = {"ours": ours()._backend}
    found |= {
        name: backend_of(FORMATS[name]) for name in ("llama-2", "mistral-large-2407", "gemma", "deepseek-v2", "qwen-3")
    }
    pieces = ["<unk>", "a", "b", "▁", "▁a", "▁▁", "中", "#", "##b", ".", *(f"<0x{byte:02X}>" for byte in range(256))]
    for name, decoder in DECODERS.items():
        backend = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
        if decoder is not None:
            backend.decoder = decoder
        backend.add_special_tokens(["<end>"])
        found[name] = backend
    return found


def streamed(backend: tokenizers.Tokenizer, ids: list[int]) -> list[str]:
    stream = TextStream(Rules(backend))
    return [*map(stream.push, ids), stream.finish()]


# Texts with many bytes to a character, and ids that spell characters in part, in the wrong order, or not at all.
texts = st.text(st.one_of(st.sampled_from("中文你好😀👩‍👩‍👧é \n�ab"), st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize("name", backends())
def test_pieces_joined_are_the_whole_text(name):
    backend = backends()[name]
    ids = st.lists(st.integers(0, backend.get_vocab_size() + 2))
    bytes_alone = [backend.token_to_id(f"<0x{byte:02X}>") for byte in "中😀é".encode()]
    runs = st.lists(st.sampled_from([i for i in bytes_alone if i is not None] or [0, 1, 2]))

    @given(st.one_of(ids, runs, st.tuples(ids, runs, texts).map(lambda t: [*t[0], *t[1], *backend.encode(t[2]).ids])))
    @settings(max_examples=300)
    def check(ids):
        assert "".join(streamed(backend, ids)) == backend.decode(ids)

    check()


@given(texts)
@example("<|end|>")
@settings(max_examples=300)
def test_a_text_comes_back_in_whole_characters(text):
    assert "".join(streamed(backends()["ours"], ours().encode(text))) == text


def test_text_comes_as_soon_as_it_is_sure():
    of_bytes = Tokenizer.train(CORPUS, 262)
    stream = of_bytes.stream()
    assert [stream.push(i) for i in of_bytes.encode("a中b")] == ["a", "", "", "中", "b"]
    assert [stream.push(i) for i in of_bytes.encode("中")[:2]] == ["", ""]
    assert stream.push(of_bytes.end_id) == ""
    assert stream.finish() == "\ufffd"
    llama = backends()["llama-2"]
    begun = [llama.token_to_id(piece) for piece in ("▁", "▁", "a", "▁")]
    assert streamed(llama, begun) == ["", " ", "a", " ", ""]
    accent = [llama.token_to_id(piece) for piece in ("<0xC3>", "<0xA9>", "a")]
    assert streamed(llama, accent) == ["", "", "éa", ""]


@pytest.mark.parametrize("name", ["ours", "llama-2"])
def test_the_work_is_linear(name, monkeypatch):
    """Ids handed to the backend's decoder, for a long run of bytes that are no character: a constant number per id."""
    backend = backends()[name]
    byte = backend.token_to_id("<0x80>" if name == "llama-2" else "Ģ")
    counted = 0

    class Counting:
        def __getattr__(self, attribute):
            return getattr(backend, attribute)

        def decode(self, ids, **kwargs):
            nonlocal counted
            counted += len(ids)
            return backend.decode(ids, **kwargs)

    ids = ([byte] * 500 + backend.encode("ab").ids) * 4
    assert "".join(streamed(Counting(), ids)) == backend.decode(ids)
    assert counted <= 4 * len(ids)


@pytest.mark.parametrize("name", [name for name in backends() if name not in DECODERS])
def test_the_bytes_of_tokens_join_to_their_text(name):
    """But for the space that sentencepiece puts before a text and takes away again."""
    backend = backends()[name]
    rules = Rules(backend)

    @settings(max_examples=40)
    @given(texts)
    def check(text: str) -> None:
        ids = backend.encode(text, add_special_tokens=False).ids
        joined = b"".join(token_bytes(rules, i) for i in ids).decode()
        assert joined in (backend.decode(ids), f" {backend.decode(ids)}")

    check()
    special = [i for i, token in backend.get_added_tokens_decoder().items() if token.special]
    assert {token_bytes(rules, i) for i in [*special, backend.get_vocab_size() + 9]} == {b""}
