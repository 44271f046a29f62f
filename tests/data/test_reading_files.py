import gzip
import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_strategies import ranking

from tutelage.data.formats import (
    read_documents,
    read_rankings,
    write_jsonl,
)
from tutelage.data.read.files import pieces
from tutelage.data.read.rows import Rejects
from tutelage.data.read.sources import data_files, read_rows
from tutelage.errors import DataError
from tutelage.records import Document


def rows_of(path):
    return [(row.line, row.value) for row in read_rows(path)]


@pytest.mark.parametrize("squeeze", [lambda b: b, gzip.compress])
def test_arrays_and_lines_by_content_whatever_the_ending(tmp_path, squeeze):
    for name in ("a.json", "a.jsonl", "a.json.gz"):
        path = tmp_path / name
        path.write_bytes(squeeze('\ufeff\n [{"a": "中"},\n {"a": 2}]'.encode()))
        assert rows_of(path) == [(1, {"a": "中"}), (2, {"a": 2})]
        path.write_bytes(squeeze('\ufeff{"a": "中\u2028"}\r\n\n"text"\n{"a": 3}'.encode()))
        assert rows_of(path) == [(1, {"a": "中\u2028"}), (3, "text"), (4, {"a": 3})]


def test_lines(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\nlast\rline")
    assert [d.text for d in read_documents(path)] == ["one\ntwo\n\nlast\rline"]
    path.write_bytes("naïve\ncafé\n".encode("cp1252"))
    assert [d.text for d in read_documents(path, encoding="cp1252")] == ["naïve\ncafé\n"]
    first, second, empty = read_rows(path)
    assert str(first.value) == f"{path}:1: is not utf-8 at byte 3 of the line"
    assert isinstance(second.value, DataError)
    assert (empty.value.reason, empty.where) == ("empty text file", str(path))


def test_zip(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("c/b.txt", "c/a.txt", "c/README.txt", "c/pic.png", "c/b.txt.gz"):
            archive.writestr(name, f"{name}\n")
    rejects = Rejects()
    documents = list(read_documents(path, rejects=rejects))
    assert [(d.source, d.text) for d in documents] == [(f"x.zip/{n}", f"{n}\n") for n in ("c/a.txt", "c/b.txt")]
    assert rejects.counts == {"readme or licence": 1, "file of another kind": 2}
    assert rejects.first["readme or licence"] == f"{path}/c/README.txt"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="zip archive"):
        list(read_documents(path))


def test_folders_are_read_in_sorted_order(tmp_path):
    for name in ("b/1.txt", "a.txt", "b.txt", "LICENSE", "README.txt", "x.bin", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    rejects = Rejects()
    found = [p.relative_to(tmp_path).as_posix() for p in data_files(tmp_path, ("text",), rejects)]
    assert found == ["a.txt", "b/1.txt", "b.txt"]
    assert rejects.counts == {"file of another kind": 2, "readme or licence": 1}
    with pytest.raises(DataError, match="no file in this folder can be read"):
        data_files(tmp_path, ("zip",), Rejects())
    with pytest.raises(DataError, match="there is no such file or folder"):
        data_files(tmp_path / "none", ("zip",), Rejects())
    with pytest.raises(DataError, match="ends in"):
        data_files(tmp_path / "x.bin", ("text",), Rejects())


lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30), max_size=40)


@given(lines, st.integers(8, 60))
@settings(max_examples=300)
def test_pieces_join_to_the_whole_and_are_short(some, limit):
    text = "\n".join(some)
    got = list(pieces(text.splitlines(keepends=True), limit))
    assert "".join(got) == text
    assert all(0 < len(piece.encode()) <= limit for piece in got)


def test_pieces_end_at_blank_lines_then_lines_then_spaces():
    assert list(pieces(["short\n", "\n", "text\n"], 100)) == ["short\n\ntext\n"]
    paragraph = ["x" * 9 + "\n", "\n"]
    assert list(pieces(paragraph * 5, 24)) == ["".join(paragraph * 2)] * 2 + ["".join(paragraph)]
    assert list(pieces(["x" * 9 + "\n"] * 3, 24)) == ["x" * 9 + "\n" + "x" * 9 + "\n", "x" * 9 + "\n"]
    assert all(piece.endswith("word ") for piece in pieces(["word " * 50], 48))


def test_a_blank_line_too_early_is_no_place_to_cut():
    early = ["a\n", "\n"] + ["b" * 9 + "\n"] * 20
    assert len(next(pieces(early, 100))) == 93  # nine lines, not the three bytes before the blank line


@given(st.lists(ranking(), min_size=1, max_size=4))
@settings(max_examples=40)
def test_our_own_records_come_back(tmp_path_factory, some):
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    assert write_jsonl(path, some) == len(some)
    assert list(read_rankings(path)) == some


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "x.jsonl"
    write_jsonl(path, [Document(text="old")])

    def broken():
        yield Document(text="new")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert json.loads(path.read_text()) == {"text": "old"}
    assert [p.name for p in path.parent.iterdir()] == ["x.jsonl"]
