"""Labelled examples: columns and files that are read, and the errors that name file, line and field."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tutelage.data.formats.labelled import read_labelled
from tutelage.data.read.rows import Rejects
from tutelage.errors import DataError
from tutelage.records import Labelled

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(folder: Path, *rows, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def one(folder: Path, format, row) -> Labelled:
    (example,) = read_labelled(write(folder, row), format)
    return example


@pytest.mark.parametrize(
    ("format", "row", "example"),
    [
        ("classification", {"text": "fine", "label": "pos"}, Labelled(text="fine", label="pos")),
        ("classification", {"sentence": "fine", "label": 1, "idx": 7}, Labelled(text="fine", label="1")),
        ("entailment", {"premise": "a", "hypothesis": "b", "label": 0}, Labelled(text="a", second="b", label="0")),
        ("entailment", {"question": "b", "passage": "a", "answer": True}, Labelled(text="a", second="b", label="true")),
        ("similarity", {"sentence1": "a", "sentence2": "b", "label": "1"}, Labelled(text="a", second="b", label="1")),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": 1}, Labelled(text="q", choices=("a", "b"), label="1")),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": "B"}, Labelled(text="q", choices=("a", "b"), label="1")),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": "b"}, Labelled(text="q", choices=("a", "b"), label="1")),
        ("choice", {"question": "q", "choices": ["2", "1"], "answer": "1"}, Labelled(text="q", choices=("2", "1"), label="1")),
        (
            "choice",
            {"context": "c", "question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"},
            Labelled(text="c\nq", choices=("a", "b"), label="0"),
        ),
        (
            "classification",
            {"instruction": "Please answer ... true or false, question: is it?\n\nAnswer format: true/false",
             "answer": "false", "output": "the correct answer is false"},
            Labelled(text="is it?", label="false"),
        ),
        (
            "choice",
            {"instruction": "Please choose ... to the question: Why?\n\nSolution1: One.\n\nSolution2: Two.\n\nAnswer format: x",
             "answer": "solution2"},
            Labelled(text="Why?", choices=("One.", "Two."), label="1"),
        ),
    ],
)  # fmt: skip
def test_rows_of_every_format(tmp_path, format, row, example):
    assert one(tmp_path, format, row) == example


def test_csv_and_tsv(tmp_path):
    csv = write(tmp_path, 'text,label\n"a ""fine"", film\nof two lines",pos\n\nbad,neg\n', name="a.csv")
    places: list[str] = []
    first, second = read_labelled(csv, "classification", places=places)
    assert (first.text, first.label, second.text) == ('a "fine", film\nof two lines', "pos", "bad")
    assert places == [f"{csv}:2", f"{csv}:5"]
    tsv = write(tmp_path, '\ufeffsentence\tlabel\na "fine film\t1\n', name="a.tsv")
    assert list(read_labelled(tsv, "classification")) == [Labelled(text='a "fine film', label="1")]


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        ("classification", {"label": 1}, r"rows.jsonl:1: field 'text': is missing or empty; expected .*\(or sentence\), found"),
        ("classification", {"text": "a", "label": None}, r"rows.jsonl:1: field 'label': is missing or empty"),
        ("classification", {"text": "  ", "label": 1}, r"rows.jsonl:1: field 'text': is empty"),
        ("classification", {"text": 3, "label": 1}, r"rows.jsonl:1: field 'text': is not text"),
        ("classification", {"text": "a", "label": 0.5}, r"rows.jsonl:1: field 'label': is not a label"),
        ("classification", "[1]\n", r"rows.jsonl: row 1: is not an object"),
        ("entailment", {"text": "a", "label": 1}, r"rows.jsonl:1: field 'second': is missing"),
        ("choice", {"question": "q", "answer": 1}, r"rows.jsonl:1: field 'choices': is missing"),
        ("choice", {"question": "q", "choices": "ab", "answer": 1}, r"rows.jsonl:1: field 'choices': is not a list"),
        ("choice", {"question": "q", "choices": ["a"], "answer": 0}, r"rows.jsonl:1: field 'choices': is one choice or none"),
        ("choice", {"question": "q", "choices": ["a", ""], "answer": 0}, r"rows.jsonl:1: field 'choices.1': is empty"),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": 2}, r"not one of the choices; expected a number from 0 to 1"),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": "c"}, r"field 'answer': is not one of the choices"),
        ("choice", {"question": "q", "choices": ["a", "b"], "answer": True}, r"field 'answer': is not one of the choices"),
        ("choice", {"question": "q", "choices": ["a", "a"], "answer": "a"}, r"field 'answer': is the text of two choices"),
        ("choice", {"instruction": "Why?", "answer": "x"}, r"field 'instruction': is not LLM-Adapters' question"),
    ],
)  # fmt: skip
def test_a_bad_row_is_one_line_with_its_place(tmp_path, format, row, message):
    good = {"text": "t", "second": "s", "question": "q", "choices": ["a", "b"], "answer": 1, "label": 1}
    with pytest.raises(DataError, match=message) as caught:
        one(tmp_path, format, row)
    assert "\n" not in str(caught.value)
    if isinstance(row, dict):
        path, rejects = write(tmp_path, row, good), Rejects()
        assert len(list(read_labelled(path, format, on_bad="skip", rejects=rejects))) == 1
        assert sum(rejects.counts.values()) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", r"a\.csv:1: is empty; expected a line with the names"),
        ("a.csv", "text,text\nx,y\n", r"a\.csv:1: has two columns of one name"),
        ("a.csv", "text,label\n", r"a\.csv: is empty"),
        ("a.csv", "text,label\nx,1\nx\n", r"a\.csv:3: has another number of cells .* expected 2 cells \(text, label\)"),
        ("a.csv", "text,label\nx,1\n,1\n", r"a\.csv:3: field 'text': is missing or empty"),
        ("a.csv", 'text,label\nx,1\n"x', r"a\.csv:3: is not a row of csv"),
        ("a.txt", "text", "cannot be read by its name's ending; expected .*csv"),
        ("a.zip", "text", "damaged or unsupported zip archive"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        list(read_labelled(write(tmp_path, text, name=name), "classification"))


def test_a_csv_that_is_not_utf8(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\nfine,1\ncafé,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv:\d: is not utf-8"):
        list(read_labelled(tmp_path / "a.csv", "classification"))


def test_archives_of_polarity(tmp_path):
    path = tmp_path / "both.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/README.txt", "not data")
        archive.writestr("a/rt.neg", "bad \nworse\n")
        archive.writestr("b/pos/one.txt", "a fine\nfilm\n")
    places: list[str] = []
    found = list(read_labelled(path, "classification", places=places))
    assert [(e.text, e.label) for e in found] == [("bad", "neg"), ("worse", "neg"), ("a fine\nfilm", "pos")]
    assert places[1] == f"{path}/a/rt.neg:2"


@pytest.mark.parametrize(
    ("name", "format", "count", "labels"),
    [
        ("nltk/sentence_polarity.zip", "classification", 10662, {"pos", "neg"}),
        ("nltk/movie_reviews.zip", "classification", 2000, {"pos", "neg"}),
        ("commonsense-math/boolq/train.json", "classification", 9427, {"true", "false"}),
        ("commonsense-math/openbookqa/train.json", "choice", 4957, set("0123")),
        ("commonsense-math/piqa/test.json", "choice", 1838, set("01")),
        ("commonsense-math/ARC-Challenge/train.json", "choice", 1119, set("01234")),
    ],
)
def test_real_files(name, format, count, labels):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    examples = list(read_labelled(path, format))
    assert len(examples) == count
    assert {example.label for example in examples} <= labels
