"""JSON arrays and lines, streamed: the same rows as json.loads gives; what is not JSON is named by file and line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.formats import read_documents
from tutelage.data.read.json_rows import read_json
from tutelage.errors import DataError

characters = st.characters(exclude_categories=["Cs"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=4),
)


@given(st.lists(values, min_size=1, max_size=6), st.sampled_from([None, 0, 2]), st.booleans())
@settings(max_examples=100)
def test_an_array_is_its_rows(tmp_path_factory, rows, indent, ascii_only):
    path = tmp_path_factory.mktemp("array") / "x.json"
    path.write_text(f"\ufeff \n{json.dumps(rows, indent=indent, ensure_ascii=ascii_only)}\n ", encoding="utf-8")
    got = list(read_json(path))
    assert [row.value for row in got] == rows
    assert [row.line for row in got] == list(range(1, len(rows) + 1))
    assert [json.loads(row.text()) for row in got] == rows


@given(st.lists(values.filter(lambda v: not isinstance(v, list)), min_size=1, max_size=6))
@settings(max_examples=50)
def test_lines_are_the_rows(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert [row.value for row in read_json(path)] == rows


BROKEN_ARRAYS = [
    (b'[{"a": 1},\n {"a" 2}]', 2, 7),
    (b'[{"a": 1} {"a": 2}]', 1, 11),
    (b'[{"a": 1}],', 1, 11),
    (b'[{"a": 1},\n]', 1, 10),
    (b'[{"a": 1}\n, {"b": "cut', 2, 13),
    (b"[{'a': 1}]", 1, 3),
    (b'[{"a": 1}, tru]', 1, 12),
    (b'[\n\n{"a": "tab\there"}]', 3, 11),
    ('[{"a": "中"},\n{"a": "'.encode() + b'\xe9"}]', 2, 8),
    (b'[{"a": 1},\n{"a": NaN}]', 2, 7),
    (b'[{"a": 1e999}]', 1, 8),
]


@pytest.mark.parametrize(("content", "line", "column"), BROKEN_ARRAYS)
def test_a_broken_array_is_named_by_line_and_column(tmp_path, content, line, column):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_json(path))
    place = f"byte {column} of" if b"\xe9" in content else f"column {column}:"
    assert str(error.value).startswith(f"{path}:{line}: is not ")
    assert place in str(error.value)


def test_what_comes_before_the_break_has_been_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, oh]')
    rows = read_json(path)
    assert [next(rows).value, next(rows).value] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match=r"x\.json:1: is not JSON at column 22"):
        next(rows)


BAD_LINES = [
    (b'{"a": 1,}', "column 8: trailing comma is not allowed"),
    (b"{'a': 1}", "write rows with json.dumps"),
    (b'{"a": 1} {"a": 2}', "column 10: unexpected content after document"),
    (b'{"a": NaN}', "JSON has no NaN or Infinity, write null"),
    (b'{"a": -Infinity}', "JSON has no NaN or Infinity, write null"),
    (b'{"a": 1e999}', "number is infinity"),
    (b'{"a": "\xff"}', "is not utf-8 at byte 8 of the line"),
    (b'{"a": ' + b"[" * 100_000, "depth limit exceeded"),
    (b'{"a": "x\\ud83d"}', "half of a surrogate pair"),
    (b'{"a": "tab\there"}', "column 11: unexpected control character"),
    (b'{"messages": [{"role": "user"},', "the row is cut off"),
    (b'{"a": "cut of', "the row is cut off"),
    (b"instruction,output", "is not JSON at column 1"),
    (b"version https://git-lfs.github.com/spec/v1", "is not JSON at column 1"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_named_and_hides_no_other(tmp_path, line, problem):
    path = tmp_path / "x.jsonl"
    path.write_bytes(line + b'\n{"a": 1}\n' + line + b"\n")
    first, good, last = read_json(path)
    assert good.value == {"a": 1}
    for row, number in ((first, 1), (last, 3)):
        assert str(row.value).startswith(f"{path}:{number}: is not ")
        assert problem in str(row.value)
        assert row.text() == line.decode("utf-8", "backslashreplace")


def test_what_the_libraries_decide(tmp_path):
    """Where JSON leaves it open: a key twice, whole numbers beyond 64 bits, half a surrogate pair in an array."""
    path = tmp_path / "x.json"
    path.write_text('{"a": 1, "a": 2, "n": 1' + "0" * 30 + "}\n")
    assert [row.value for row in read_json(path)] == [{"a": 2, "n": 1e30}]
    path.write_text(r'[{"a": 1, "a": 2}, {"a": "\ud83d\ude00"}, {"a": "\ud83d"}]')
    assert [row.value for row in read_json(path)] == [{"a": 2}, {"a": "😀"}, {"a": "?"}]
    path.write_text('[{"n": 1' + "0" * 30 + "}]")
    with pytest.raises(DataError, match=r"x\.json: row 1: is not JSON \(parse error: integer overflow"):
        list(read_json(path))


def test_byte_order_marks_at_the_start_of_rows_are_ignored(tmp_path):
    """Two files with a mark each, joined."""
    path = tmp_path / "x.jsonl"
    path.write_text('\ufeff{"a": 1}\n\ufeff{"a": 2}\n\ufeff\n', encoding="utf-8")
    assert [row.value for row in read_json(path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ['{\n  "a": 1\n}', '{"data": [\n    {"instruction": "x"}\n  ]\n}'])
def test_an_object_over_several_lines_is_no_file_of_rows(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(
        DataError, match=r"x\.json:1: holds one object over .* an array of rows, or one object per line"
    ):
        list(read_json(path))


def test_gzip_and_many_blank_lines(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"\n" * 200_000 + b'[{"a": 1}]'))
    assert [row.value for row in read_json(path)] == [{"a": 1}]
    path.write_bytes(gzip.compress(b"\n" * 200_000 + b'{"a": 1}'))
    assert [(row.line, row.value) for row in read_json(path)] == [(200_001, {"a": 1})]


def test_deep_objects_come_back(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "t", "meta": {"a": ' + "[" * 150 + "]" * 150 + "}}\n")
    (document,) = read_documents(path)
    assert type(document).model_validate_json(document.model_dump_json()) == document
