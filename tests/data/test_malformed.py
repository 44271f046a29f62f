"""Broken files as they are found in the wild: each is one line that names the place, whatever reads it."""

import gzip
import json
import os
import random
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tutelage.cli import app as cli
from tutelage.data.formats import read_conversations, read_documents, read_rankings, what_is_in
from tutelage.data.read.json_rows import read_json
from tutelage.data.read.rows import Rejects
from tutelage.errors import DataError, UsageError

GOOD = b'{"instruction": "do", "input": "", "output": "x"}\n'
TABLE = [{"instruction": "do", "output": "x"}] * 100


def lines(*rows: bytes) -> bytes:
    return GOOD + b"".join(row + b"\n" for row in rows)


def table(rows, *, suffix="parquet") -> bytes:
    sink = pa.BufferOutputStream()
    made = pa.Table.from_pylist(rows)
    if suffix == "parquet":
        parquet.write_table(made, sink)
    else:
        with pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made, max_chunksize=10)
    return sink.getvalue().to_pybytes()


def flipped(content: bytes, seed: int) -> bytes:
    """A hundred bytes in the middle of it replaced."""
    draw, damaged = random.Random(seed), bytearray(content)
    for _ in range(100):
        damaged[draw.randrange(len(content) // 4, len(content))] = draw.randrange(256)
    return bytes(damaged)


# name, content, what the message must hold (it always holds the path)
FILES = [
    # not JSON (the words for lines and arrays are test_json_rows.py's)
    ("x.jsonl", lines(b'{"instruction": "do", "output": "x",}'), ":2: is not JSON at column 36: trailing comma"),
    ("x.jsonl", GOOD + GOOD[:30], ":2: is not JSON at column "),
    ("x.jsonl", lines(b'{"instruction": "' + b"x" * 20_000_000), "the row is cut off"),
    ("x.json", b'{\n  "instruction": "do",\n  "output": "x"\n}\n', ":1: holds one object over several lines"),
    ("x.json", b'{"version": 1, "data": [' + GOOD.strip() + b"]}", "its rows seem to be in the list 'data'"),
    ("x.json", b"[" + GOOD + b"]]", ":2: is not JSON at column 2: unexpected content"),
    ("x.json", b"[" + GOOD, ":2: is not JSON at column 1: unexpected end of data"),
    ("x.json", b"[[" + GOOD + b"]]", ": row 1: is not an object; expected an object"),
    ("x.json", b"[1, 2]", ": row 1: is not an object; expected an object, found 1"),
    ("x.json", b"[" * 2000, "depth limit exceeded"),
    ("x.jsonl", lines(b'{"instruction": "do", "output": NaN}'), "JSON has no NaN or Infinity"),
    # other encodings
    ("x.jsonl", GOOD.decode().encode("utf-16"), ":1: is UTF-16; expected UTF-8"),
    ("x.jsonl", GOOD.decode().encode("utf-16-le"), ":1: begins with zero bytes: UTF-16, or not text"),
    ("x.jsonl", GOOD.decode().encode("utf-16-be"), ":1: begins with zero bytes: UTF-16, or not text"),
    ("x.jsonl", GOOD.decode().encode("utf-32"), ":1: is UTF-16"),
    ("x.jsonl", lines('{"output": "naïve"}'.encode("latin-1")), ":2: is not utf-8 at byte 15 of the line"),
    ("x.txt", "words".encode("utf-16"), ":1: is UTF-16"),
    ("x.txt", "words".encode("utf-16-le"), ":1: begins with zero bytes"),
    ("x.txt", "one\nnaïve\n".encode("latin-1"), ":2: is not utf-8 at byte 3 of the line"),
    # nothing, or something else
    ("x.jsonl", b"", ": is empty"),
    ("x.jsonl", b"\n \n\t\n\n", ": is empty"),
    ("x.jsonl", b"\xef\xbb\xbf\n", ": is empty"),
    ("x.json", b"[]", ": is an empty array"),
    ("x.txt", b"", ": holds no text"),
    ("x.zip", b"no archive", ": damaged or unsupported zip archive"),
    ("x.csv", b"a,b", ": cannot be read by its name's ending; expected a name that ends in"),
    # damaged archives
    ("x.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-20], ": damaged gzip file"),
    ("x.jsonl.gz", gzip.compress(GOOD * 1000, mtime=0)[:-8] + b"\0" * 8, ": damaged gzip file (CRC check failed"),
    ("x.jsonl.gz", b"\x1f\x8bnot really", ": damaged gzip file"),
    # tables
    ("x.parquet", table(TABLE)[:-50], ": damaged or unsupported parquet file"),
    ("x.parquet", table(TABLE)[:100], ": damaged or unsupported parquet file"),
    ("x.parquet", b"", ": damaged or unsupported parquet file"),
    ("x.parquet", GOOD, ": damaged or unsupported parquet file"),
    ("x.parquet.gz", gzip.compress(table(TABLE)), ": damaged or unsupported parquet file"),
    ("x.parquet", gzip.compress(table(TABLE)), ": damaged or unsupported parquet file"),
    ("x.parquet", table([{"a": "b", "c": 1}]), ': row 1: no known format has these fields, found ["a", "c"]'),
    ("x.parquet", table([{"instruction": "do", "output": 3}]), ": row 1: field 'output': is not text"),
    ("x.parquet", table([{"instruction": "do", "output": None}]), ": row 1: field 'output': is missing"),
    ("x.arrow", table(TABLE, suffix="arrow")[:-8], ": is not an Arrow file, or was cut off"),
    ("x.arrow", table(TABLE, suffix="arrow")[:100], ": is not an Arrow file, or was cut off"),
    ("x.arrow", b"", ": is not an Arrow file"),
    # rows that break their format
    ("x.jsonl", lines(b'{"instruction": "do"}'), ":2: field 'output': is missing; expected text"),
    ("x.jsonl", lines(b'{"instruction": "do", "output": {"text": "x"}}'), ":2: field 'output': is not text"),
    ("x.jsonl", lines(b'{"instruction": ["do"], "output": "x"}'), ":2: field 'instruction': is not text"),
    ("x.jsonl", lines(b'"only a text"'), ":2: is not an object; expected an object, found 'only a text'"),
    ("x.jsonl", lines(b"null"), ":2: is not an object; expected an object"),
    ("x.jsonl", b'{"a": 1}\n', ':1: no known format has these fields, found ["a"]'),
    ("x.jsonl", b"{\"messages\": \"[{'role': 'user'}]\"}\n", ":1: field 'messages': is not a list of messages"),
    (
        "x.jsonl",
        b'{"messages": [{"role": "user", "content": ["a"]}]}',
        ":1: field 'messages.0.content.0': is not a part",
    ),
    (
        "x.jsonl",
        b'{"messages": [], "label": true}',
        "a good or bad for each answer alone ranks no answer above another",
    ),
    ("x.jsonl", b'{"text": "a document"}', ": holds another kind of data; expected Conversations"),
]


def reader(name):
    return read_documents if name.endswith((".txt", ".zip", ".csv")) else read_conversations


@pytest.mark.parametrize(
    ("name", "content", "message"), FILES, ids=[f"{i}-{row[2][:40]}" for i, row in enumerate(FILES)]
)
def test_a_broken_file_is_one_line_that_names_the_place(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        list(reader(name)(path))
    said = str(error.value)
    assert said.startswith(str(path))
    assert message in said
    assert "\n" not in said
    assert len(said) < len(str(path)) + 400
    # Skipping, counting and showing give no other errors than reading.
    assert cli.main(["data", "inspect", str(path)]) in (0, 2)
    captured = capsys.readouterr()
    assert str(path) in captured.out + captured.err
    assert captured.err.count("\n") <= 1


def test_a_folder_named_like_a_file(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(DataError, match=r"x\.jsonl: no file in this folder can be read"):
        list(read_conversations(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl" / "y.jsonl").write_bytes(GOOD)
    assert len(list(read_conversations(tmp_path / "x.jsonl"))) == 1


def test_what_is_no_file(tmp_path):
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop").symlink_to(tmp_path)
    for name, message in (
        ("dangling.jsonl", "there is no such file or folder"),
        ("pipe.jsonl", "is neither a file nor a folder"),
        ("none/such.jsonl", "there is no such file or folder"),
    ):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            list(read_conversations(tmp_path / name))
    (tmp_path / "x.jsonl").write_bytes(GOOD)
    assert len(list(read_conversations(tmp_path))) == 1  # neither of them hangs or goes round


@contextmanager
def nobody():
    """Root may read everything: for a while be somebody who may not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_files_and_folders_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir()
        for file in ("x.jsonl", "x.parquet", "x.txt", "x.zip", "closed/x.jsonl"):
            (folder / file).write_bytes(GOOD)
            (folder / file).chmod(0)
        (folder / "closed").chmod(0)
        with nobody():
            for file in ("x.jsonl", "x.parquet", "x.txt", "x.zip", "closed/x.jsonl", "closed", "."):
                with pytest.raises(DataError, match=r"cannot be read \(.*Permission denied\)") as error:
                    list(reader(file)(folder / file))
                assert str(error.value).startswith(name)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        list(read_conversations(tmp_path / ("x" * 300 + ".jsonl")))


def test_reading_what_the_system_cannot_read():
    """An error of the system while reading, for root too: the memory of this process is a file that breaks at once."""
    if not os.path.exists("/proc/self/mem"):
        pytest.skip("no /proc here")
    with pytest.raises(DataError, match="/proc/self/mem: cannot be read"):
        list(read_json(Path("/proc/self/mem")))


def test_a_row_of_twenty_megabytes_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    row = {"instruction": "do", "output": "x" * 20_000_000}
    path.write_text(json.dumps(row) + "\n" + GOOD.decode())
    assert [len(c.messages[1].content) for c in read_conversations(path)] == [20_000_000, 1]
    path.write_text(json.dumps([row, row]))
    assert [len(c.messages[1].content) for c in read_conversations(path)] == [20_000_000] * 2


def test_concatenated_gzips_are_one_file(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))
    assert len(list(read_conversations(tmp_path / "x.jsonl.gz"))) == 2


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damaged_tables_raise_nothing_but_our_own_error(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    whole = table(
        [{"instruction": f"do {i}", "output": "x" * (i % 50) or "y", "n": [i]} for i in range(200)], suffix=suffix
    )
    problems = []
    for seed in range(100):
        path.write_bytes(flipped(whole, seed) if seed % 2 else whole[: random.Random(seed).randrange(len(whole))])
        try:
            list(read_conversations(path, on_bad="skip", rejects=Rejects()))
        except UsageError as error:
            problems.append(str(error))
    assert len(problems) > 50
    assert all(problem.startswith(str(path)) and "\n" not in problem for problem in problems)


def test_a_bad_file_among_good_ones_is_a_problem_of_its_own(tmp_path, capsys):
    for name, content in (
        ("a.jsonl", GOOD),
        ("b.jsonl", b"\x1f\x8bno"),
        ("c.json", b"[" + GOOD + b",oh]"),
        ("d.jsonl", GOOD),
    ):
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("t.txt", "words")
    assert cli.main(["data", "inspect", str(tmp_path)]) == 2, "a script must notice"
    out, err = capsys.readouterr()
    assert err.startswith("tutelage: 2 files are broken: ")
    assert "b.jsonl: damaged gzip file" in out
    assert "c.json:2: is not JSON at column 2: unexpected character" in out
    assert "\n3 conversations" in out
    assert "\n1 documents" in out


def test_a_file_of_broken_rows_alone_raises_the_first_problem(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{'a': 1}\n" * 5)
    with pytest.raises(DataError, match=r"x\.jsonl:1: is not JSON at column 2"):
        what_is_in(path)
    assert list(read_rankings(path, on_bad="skip", rejects=Rejects())) == []
