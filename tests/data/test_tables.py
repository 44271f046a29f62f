"""Parquet files, Arrow files and saved data sets: the rows that pyarrow and datasets wrote, as plain values."""

import datetime
import decimal
import json
import math
import subprocess
import sys
import uuid

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tutelage.data.formats import detect, read_conversations, read_documents, read_prompts, read_rankings
from tutelage.data.read import tables
from tutelage.data.read.rows import Rejects, RowError
from tutelage.data.read.sources import data_files, read_rows
from tutelage.data.read.tables import plain
from tutelage.data.writing import write_records
from tutelage.errors import DataError
from tutelage.records import Document

ROWS = [{"instruction": f"do {i}", "input": "", "output": "x" * i or "nothing"} for i in range(2500)]


def values(path):
    return [row.value for row in read_rows(path)]


@pytest.mark.parametrize("group", [100, 10_000])
def test_parquet_rows_in_order_whatever_the_row_groups(tmp_path, group):
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=group)
    rows = list(read_rows(path))
    assert [row.value for row in rows] == ROWS
    assert [row.line for row in rows] == list(range(1, 2501))
    assert detect(path) == "alpaca"
    assert len(list(read_conversations(path))) == 2500


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_streams_and_files(tmp_path, kind):
    path = tmp_path / "x.arrow"
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, getattr(pa.ipc, f"new_{kind}")(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    assert values(path) == ROWS


def test_a_saved_dataset_its_splits_and_one_of_them(tmp_path):
    saved = datasets.Dataset.from_list(ROWS)
    parts = datasets.DatasetDict({"train": saved.select(range(2000)), "test": saved.select(range(2000, 2500))})
    saved.save_to_disk(tmp_path / "one", num_shards=3)
    parts.save_to_disk(tmp_path / "two")
    assert [c.messages[0].content for c in read_conversations(tmp_path / "one")] == [r["instruction"] for r in ROWS]
    both = list(read_conversations(tmp_path / "two"))
    assert [c.source for c in (both[0], both[-1])] == [
        "train/data-00000-of-00001.arrow",
        "test/data-00000-of-00001.arrow",
    ]
    assert len(both) == 2500
    assert len(list(read_conversations(tmp_path / "two" / "test"))) == 500
    everything = list(read_conversations(tmp_path))  # the folder above: nothing of the data sets' own JSON is read
    assert len(everything) == 5000
    # Rows chosen by index are written in their order.
    saved.select([7, 3]).save_to_disk(tmp_path / "chosen")
    assert [c.messages[0].content for c in read_conversations(tmp_path / "chosen")] == ["do 7", "do 3"]


def test_several_splits_are_said_aloud(tmp_path, caplog):
    saved = datasets.Dataset.from_list(ROWS[:3])
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "x")
    list(read_conversations(tmp_path / "x"))
    assert "reads the splits train, test one after another" in caplog.text
    caplog.clear()
    list(read_conversations(tmp_path / "x" / "train"))
    assert caplog.text == ""


def test_a_saved_dataset_that_lacks_a_file(tmp_path):
    datasets.Dataset.from_list(ROWS[:9]).save_to_disk(tmp_path / "x", num_shards=2)
    (tmp_path / "x" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow: cannot be read \(.*No such file"):
        list(read_conversations(tmp_path / "x"))
    (tmp_path / "x" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json: does not list the files of a saved data set"):
        data_files(tmp_path / "x", ("rows",), Rejects())


def column(tmp_path, array):
    """What a column's values become."""
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"a": array}), path)
    return [row.value["a"] if isinstance(row.value, dict) else str(row.value) for row in read_rows(path)]


UTC = datetime.UTC


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (lambda: pa.array([1.5, math.nan, None]), [1.5, None, None]),
        (lambda: pa.array([True, None]), [True, None]),
        (lambda: pa.array([b"abc", "é".encode()], pa.binary()), ["abc", "é"]),
        (lambda: pa.array([datetime.datetime(2024, 5, 6, 7, 8, 9)], pa.timestamp("us")), ["2024-05-06T07:08:09"]),
        (lambda: pa.array([1_000_000_001], pa.timestamp("ns", "UTC")), ["1970-01-01T00:00:01.000000001+00:00"]),
        (lambda: pa.array([datetime.date(2024, 5, 6)]), ["2024-05-06"]),
        (lambda: pa.array([datetime.time(7, 8)]), ["07:08:00"]),
        (lambda: pa.array([datetime.timedelta(seconds=90)]), [90.0]),
        (lambda: pa.array([decimal.Decimal("2.50"), decimal.Decimal("3.00")]), [2.5, 3]),
        (lambda: pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (lambda: pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())), [{"k": 1}, []]),
        (lambda: pa.array([{"x": 1, "y": None}, None]), [{"x": 1}, None]),
        (lambda: pa.array([[{"x": None}], []]), [[{}], []]),
        (lambda: pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), [[1.0, 2.0]]),
    ],
)
def test_what_tables_hold_beyond_json(tmp_path, array, expected):
    assert column(tmp_path, array()) == expected


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (lambda: pa.array([math.inf]), "row 1: field 'a': is not a finite number, found Infinity"),
        (lambda: pa.array([b"\xff\xfe"], pa.binary()), "row 1: field 'a': holds bytes that are not text"),
        (lambda: pa.array([{"b": [b"\xff"]}]), "row 1: field 'a.b.0': holds bytes that are not text"),
        (lambda: pa.array([[(1, 2)]], pa.map_(pa.int64(), pa.int64())), "field 'a': is not an object; expected a map"),
    ],
)
def test_what_has_no_plain_form_is_a_bad_row(tmp_path, array, problem):
    (found,) = column(tmp_path, array())
    assert problem in found
    assert "\n" not in found


@given(
    st.integers()
    | st.floats(allow_infinity=False)
    | st.text()
    | st.uuids()
    | st.datetimes()
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6)
)
@settings(max_examples=100)
def test_plain_values_are_json(value):
    json.dumps(plain({"a": [value]}, "x"), allow_nan=False)


def test_plain_takes_a_uuid_and_refuses_the_rest():
    assert plain(uuid.UUID(int=1), "x") == "00000000-0000-0000-0000-000000000001"
    with pytest.raises(RowError, match="holds a object"):
        plain(object(), "x")


def test_two_columns_of_one_name(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(DataError, match="has two columns of one name"):
        list(read_documents(path))


def test_null_columns_are_absent(tmp_path):
    """In a table each row has every column: what a row does not use is null there."""
    path = tmp_path / "x.parquet"
    turns = [{"role": "user", "content": "q", "name": None}, {"role": "assistant", "content": "a", "name": None}]
    row = {"messages": turns, "source": None, "meta": None, "lang": "en"}
    schema = pa.schema(
        [
            ("messages", pa.list_(pa.struct([(n, pa.string()) for n in ("role", "content", "name")]))),
            *((name, pa.string()) for name in ("source", "meta", "lang")),
        ]
    )
    parquet.write_table(pa.Table.from_pylist([row], schema), path)
    (got,) = read_conversations(path)
    assert ([m.content for m in got.messages], got.source, got.meta) == (["q", "a"], "x.parquet", {"lang": "en"})
    parquet.write_table(
        pa.table({"prompt": ["q"], "chosen": ["a"], "rejected": ["b"], "system": [None], "messages": [None]}), path
    )
    (ranking,) = read_rankings(path)
    assert (ranking.prompt.meta, len(ranking.prompt.messages)) == ({}, 1)
    parquet.write_table(pa.table({"prompt": ["q"], "id": pa.array([None], pa.string())}), path)
    assert [p.id for p in read_prompts(path)] == [""]


def test_what_we_write_is_what_datasets_loads(tmp_path):
    """Our Parquet through `datasets` and back, in the format that TRL wants."""
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "n": i or "x"} for i in range(5)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rankings = list(read_rankings(tmp_path / "x.jsonl"))
    write_records(tmp_path / "x.parquet", rankings, "preference")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded[3]["chosen"] == [{"role": "assistant", "content": "good"}]
    assert loaded[3]["prompt"] == [{"role": "user", "content": "q3"}]
    loaded.save_to_disk(tmp_path / "saved")
    again = [r.model_copy(update={"source": "x.jsonl"}) for r in read_rankings(tmp_path / "saved")]
    assert again == rankings
    write_records(tmp_path / "own.parquet", rankings)
    datasets.Dataset.from_parquet(str(tmp_path / "own.parquet"), cache_dir=str(tmp_path / "cache")).save_to_disk(
        tmp_path / "own"
    )
    assert list(read_rankings(tmp_path / "own")) == rankings


def test_big_rows_are_taken_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BYTES", 1 << 20)
    path = tmp_path / "x.parquet"
    write_records(path, (Document(text=str(i) * 300_000) for i in range(10)))
    sizes = [batch.num_rows for batch in tables._parquet(path)]
    assert max(sizes) == 3
    assert sum(sizes) == 10


def test_without_pyarrow_the_error_says_what_to_install(tmp_path):
    """In a fresh interpreter in which the import fails."""
    for name in ("x.parquet", "x.arrow"):
        (tmp_path / name).write_bytes(b"PAR1")
    code = (
        "import sys; sys.modules['pyarrow'] = sys.modules['datasets'] = None\n"
        "from pathlib import Path\n"
        "from tutelage.errors import UsageError\n"
        "from tutelage.data.formats import read_documents\n"
        "from tutelage.data.writing import write_records\n"
        "from tutelage.records import Document\n"
        "for act in (lambda: list(read_documents(Path('x.parquet'))), lambda: list(read_documents(Path('x.arrow'))),\n"
        "            lambda: list(read_documents(Path('org/name'))),\n"
        "            lambda: write_records(Path('y.parquet'), [Document(text='t')])):\n"
        "    try: act()\n"
        "    except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("pip install 'tutelage[data]'" in line for line in lines)
    assert lines[2].startswith(
        "org/name: there is no such file or folder, and as a name on the Hugging Face hub it needs"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.arrow", "x.parquet"]


def test_reading_json_never_loads_pyarrow():
    code = (
        "import sys, tutelage.data.formats, tutelage.data.writing, tutelage.cli.data_commands\n"
        "print([m for m in ('pyarrow', 'datasets', 'torch', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
