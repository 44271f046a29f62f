import json
from dataclasses import replace

import numpy as np
import pytest

from tutelage.data.tokens.shards import Shard, encode_documents, tokenise
from tutelage.errors import DataError
from tutelage.records import Document
from tutelage.text import Tokenizer

TEXTS = ["The first document.", "第二篇", "a <|bos|> typed by hand", "last"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS * 4, 300)


@pytest.fixture
def documents():
    return [Document(text=text) for text in TEXTS]


def test_the_stream_is_the_documents(tokenizer, documents, tmp_path):
    shard = tokenise(iter(documents), tokenizer, tmp_path / "tokens" / "text")
    expected = [i for text in TEXTS for i in [tokenizer.bos_id, *tokenizer.encode(text)]]
    assert shard.ids.tolist() == expected
    assert isinstance(shard.ids, np.memmap)
    assert shard.ids.dtype == np.uint16
    assert (shard.tokens, shard.documents) == (len(expected), 4)
    assert shard.bytes == sum(len(text.encode()) for text in TEXTS)
    assert (shard.ids == tokenizer.bos_id).sum() == 4
    assert Shard.load(tmp_path / "tokens" / "text") == shard
    assert sorted(p.name for p in (tmp_path / "tokens").iterdir()) == ["text.json", "text.npy"]


def test_many_documents_come_in_order(tokenizer):
    documents = (Document(text=f"number {i}") for i in range(1000))
    for i, (ids, size) in enumerate(encode_documents(documents, tokenizer)):
        assert ids == [tokenizer.bos_id, *tokenizer.encode(f"number {i}")]
        assert size == len(f"number {i}")
    assert i == 999


def test_large_vocabularies_take_four_bytes(documents, tmp_path):
    class Large:
        vocab_size, bos_id, fingerprint = 70_000, 69_999, "large"

        def encode_batch(self, texts):
            return [[65_536 + len(text)] for text in texts]

    shard = tokenise(documents, Large(), tmp_path / "big")
    assert shard.ids.dtype == np.uint32
    assert shard.ids.tolist() == [i for text in TEXTS for i in (69_999, 65_536 + len(text))]


def test_reuse_by_key_and_tokenizer(tokenizer, documents, tmp_path, monkeypatch):
    def never():
        raise AssertionError("read again")
        yield

    def refused(*_):
        raise OSError("Invalid cross-device link")

    first = tokenise(documents, tokenizer, tmp_path / "s", key="v1")
    assert tokenise(never(), tokenizer, tmp_path / "s", key="v1") == first
    with pytest.raises(AssertionError):
        tokenise(never(), tokenizer, tmp_path / "s", key="v2")
    # The failed attempt took the sidecar away, so nothing half-made can be taken for whole.
    with pytest.raises(DataError, match="no tokens here"):
        Shard.load(tmp_path / "s")
    second = tokenise(documents[:1], tokenizer, tmp_path / "s", key="v2")
    assert second.documents == 1
    linked = tokenise(never(), tokenizer, tmp_path / "run" / "t", key="v2", known=[tmp_path / "none", tmp_path / "s"])
    assert linked == replace(second, path=tmp_path / "run" / "t.npy") == Shard.load(tmp_path / "run" / "t")
    assert linked.path.samefile(second.path)
    monkeypatch.setattr("os.link", refused)  # as between two file systems
    copied = tokenise(never(), tokenizer, tmp_path / "u", key="v2", known=[tmp_path / "s"])
    assert (copied.ids == second.ids).all()
    assert not copied.path.samefile(second.path)
    other = Tokenizer.train(TEXTS * 4, 290)
    with pytest.raises(AssertionError):
        tokenise(never(), other, tmp_path / "s", key="v2")
    tokenise(documents, tokenizer, tmp_path / "s")
    with pytest.raises(AssertionError):
        tokenise(never(), tokenizer, tmp_path / "s")  # no key: nothing says that the documents are the same


def test_damage_is_named_and_mended(tokenizer, documents, tmp_path):
    whole = tokenise(documents, tokenizer, tmp_path / "s", key="v1")
    stream, sidecar = tmp_path / "s.npy", tmp_path / "s.json"
    stream.write_bytes(stream.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"s\.npy: damaged"):
        Shard.load(tmp_path / "s")
    assert tokenise(documents, tokenizer, tmp_path / "s", key="v1") == whole
    facts = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(facts | {"tokens": 3}))
    with pytest.raises(DataError, match="differ"):
        Shard.load(tmp_path / "s")
    sidecar.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Shard.load(tmp_path / "s")


def test_no_documents(tokenizer, tmp_path):
    with pytest.raises(DataError, match="no documents"):
        tokenise([], tokenizer, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
