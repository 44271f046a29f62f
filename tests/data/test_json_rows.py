"""JSON arrays and lines, streamed: the same rows as json.loads gives, wherever a file is cut into chunks."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import json_rows
from tutelage.data.formats import read_documents
from tutelage.data.json_rows import read_json
from tutelage.errors import DataError

characters = st.characters(exclude_categories=["Cs"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(characters)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=4),
)


@given(st.lists(values, min_size=1, max_size=6), st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_array_is_the_same_however_it_is_cut(tmp_path_factory, rows, chunk, indent, ascii_only):
    path = tmp_path_factory.mktemp("array") / "x.json"
    content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_text(f"\ufeff \n{content}\n ", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_CHUNK", chunk)
        got = list(read_json(path))
    assert [row.value for row in got] == rows
    assert [row.line for row in got] == list(range(1, len(rows) + 1))
    assert [json.loads(row.raw) for row in got] == rows


@given(st.lists(values.filter(lambda v: not isinstance(v, list)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_lines_are_the_rows(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert [row.value for row in read_json(path)] == rows


BROKEN_ARRAYS = [
    b'[{"a": 1},\n {"a" 2}]',
    b'[{"a": 1}',
    b'[{"a": 1} {"a": 2}]',
    b'[{"a": 1}],',
    b'[{"a": 1}][{"a": 2}]',
    b'[{"a": 1},]',
    b'[{"a": 1}, ',
    b'[{"a": "b}]',
    b"[{'a': 1}]",
    b'[{"a": 1}, tru]',
    b'[{"a": "\\u12"}]',
    b'[{"a": "tab\there"}]',
    b'[\n\n{"a": 1},\n{"b": 12.}]',
]


@pytest.mark.parametrize("content", BROKEN_ARRAYS)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_broken_array_is_named_at_the_place_that_json_names(tmp_path, monkeypatch, content, chunk):
    """The place is json.loads's, but for what comes after a value, where it may name the end of the space before."""
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(content)
    with pytest.raises(DataError) as error:
        list(read_json(path))
    assert str(error.value).startswith(f"{path}:{expected.value.lineno}: is not JSON at column ")
    column = int(str(error.value).split("column ")[1].split(":")[0])
    assert abs(column - expected.value.colno) <= 1


def test_what_stood_before_the_break_has_been_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, oh]')
    rows = read_json(path)
    assert [next(rows).value, next(rows).value] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match=r"x\.json:1: is not JSON at column 22: Expecting value"):
        next(rows)


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is too large a number"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        ('{"a": "\\ud83d"}', "half of a surrogate pair"),
        ('{"a": 1' + "0" * 5000 + "}", "Exceeds the limit"),
        ("[" * 201 + "]" * 201, "is nested too deeply"),
    ],
)
def test_a_refused_value_does_not_hide_the_rows_after_it(tmp_path, monkeypatch, inner, problem, chunk):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(f'[{{"a": 0}}, {inner}, {{"a": 4}}]')
    first, second, third = read_json(path)
    assert (first.value, third.value) == ({"a": 0}, {"a": 4})
    assert f"{path}: row 2: " in str(second.value)
    assert problem in str(second.value)
    assert second.text() == inner
    path.write_text(f'{{"a": 0}}\n{inner}\n{{"a": 4}}\n')
    first, second, third = read_json(path)
    assert (first.value, third.value) == ({"a": 0}, {"a": 4})
    assert problem in str(second.value)


def test_nested_as_deep_as_may_be(tmp_path):
    path = tmp_path / "x.jsonl"
    deep = "[" * 199 + "]" * 199
    fine = deep[2:-2]
    path.write_text(f'{{"text": "t", "meta": {{"a": {fine}, "b": "[[["}}}}\n')
    (document,) = read_documents(path)
    assert type(document).model_validate_json(document.model_dump_json()) == document
    path.write_text(f'{{"text": "t", "meta": {{"a": {deep}}}}}\n')
    with pytest.raises(DataError, match=r"x\.jsonl:1: is nested too deeply"):
        list(read_documents(path))
    path.write_text(json.dumps([{"a": list(range(3)), "b": [[[]]] * 300}] * 3))  # many brackets, none deep
    assert len(list(read_json(path))) == 3


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
def test_bytes_that_are_no_utf8_are_named(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_rows, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    content = '[{"a": "naïve"},\n{"a": "'.encode() + b'\xe9"}]'
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_json(path))
    assert str(error.value) == f"{path}:2: is not utf-8 at byte {content.index(0xE9) + 1} of the file"
    path.write_bytes('[{"a": "é'.encode()[:-1])  # in the middle of a character
    with pytest.raises(DataError, match="is not utf-8"):
        list(read_json(path))


def test_a_long_value_is_tried_a_few_times_only(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", 1024)
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"a": "x" * 1_000_000}, {"b": 1}]))
    tries = 0
    strict = json_rows._Window._decoded

    def counted(self, number):
        nonlocal tries
        tries += 1
        return strict(self, number)

    monkeypatch.setattr(json_rows._Window, "_decoded", counted)
    assert [len(row.value) for row in read_json(path)] == [1, 1]
    assert tries < 20  # 1,000 if it read on by chunks


def test_a_row_has_a_longest_length(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", 64)
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 1 << 20)
    path = tmp_path / "x.json"
    path.write_text('[{"a": "' + "x" * (3 << 20))
    with pytest.raises(DataError, match="holds a row of over 1 MiB, or none that ends"):
        list(read_json(path))
    path.write_text('{"a": "' + "x" * (3 << 20))
    with pytest.raises(DataError, match=r"x\.json:1: is longer than 1 MiB; expected one row a line"):
        list(read_json(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "a": 1\n}', "an object over several lines; a .json file is an array of rows, or one object a line"),
        ('{"a": {\n"b": [1,\n 2]}}\n{"a": 3}', "an object over several lines"),
        (
            '{\n  "data": [\n    {"instruction": "x"}\n  ]\n}',
            "whose rows stand in the list 'data'; write that list alone",
        ),
        ('{"version": "1.1",\n "n": {"a": [1]},\n "rows": [{"text": "x"},\n{"text": "y"}]}', "the list 'rows'"),
        ('{"data": [\n' + '{"text": "x"},\n' * 100_000, "the list 'data'"),  # longer than what is looked at
    ],
)
def test_an_object_over_several_lines_gets_a_hint(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        list(read_json(path))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "user" "content": "x"}]}',  # broken within the line
        '{"messages": [{"role": "user", "content": "x"},',  # cut off: what follows is no part of it
        '{"a": "cut of',
    ],
)
def test_a_broken_first_line_is_one_bad_row_and_no_object_over_several_lines(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(line + '\n{"a": 1}\n{"a": 2}\n')
    first, *others = read_json(path)
    assert str(first.value).startswith(f"{path}:1: is not JSON at column ")
    assert [row.value for row in others] == [{"a": 1}, {"a": 2}]
    assert first.text() == line


def test_gzip_and_many_blank_lines(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"\n" * 200_000 + b'[{"a": 1}]'))
    assert [row.value for row in read_json(path)] == [{"a": 1}]
    path.write_bytes(gzip.compress(b"\n" * 200_000 + b'{"a": 1}'))
    assert [(row.line, row.value) for row in read_json(path)] == [(200_001, {"a": 1})]
