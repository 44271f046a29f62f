"""Files larger than memory may be: what reading, inspecting and writing them needs does not grow with them."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.proof, pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")]

MOST = 500  # MiB
GIB = 1 << 30
ROW = {"messages": [{"role": "user", "content": "x" * 900 + "é"}, {"role": "assistant", "content": "y" * 3000 + "\n"}]}

READ = "count = sum(1 for _ in read_conversations(Path(sys.argv[1])))"
INSPECT = "count = inspect_data(Path(sys.argv[1])).kinds['conversations'].records"
CONVERT = "count = write_records(Path(sys.argv[2]), read_conversations(Path(sys.argv[1]))).count"


def run(act, *arguments):
    """(records, peak of resident memory [MiB]) of a process that does nothing else.

    The peak is that of the process's own memory: getrusage's would carry over what the parent had when it forked.
    """
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tutelage.data.formats import read_conversations\n"
        "from tutelage.data.inspect import inspect_data\n"
        "from tutelage.data.writing import write_records\n"
        f"{act}\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(count, int(peak.split()[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, peak = map(int, done.stdout.split())
    print(act, arguments, f"{count} records, {peak} MiB")
    return count, peak


def write_lines(path, size):
    """About so many bytes of JSON lines; how many rows."""
    block = (json.dumps(ROW, ensure_ascii=False) + "\n").encode() * 256
    blocks = -(-size // len(block))
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)
    assert path.stat().st_size >= size
    return blocks * 256


def test_four_gib_of_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = write_lines(path, 4 * GIB)
    count, peak = run(READ, path)
    assert count == rows
    assert peak < MOST
    path.unlink()


def test_an_array_of_half_a_gib_on_one_line(tmp_path):
    path = tmp_path / "x.json"
    block = ", ".join([json.dumps(ROW, ensure_ascii=False)] * 256).encode()
    blocks = GIB // 2 // len(block)
    with path.open("wb") as file:
        for i in range(blocks):
            file.write((b", " if i else b"[") + block)
        file.write(b"]")
    for act in (READ, INSPECT):
        count, peak = run(act, path)
        assert count == blocks * 256
        assert peak < MOST
    # Into Parquet and back.
    table = tmp_path / "x.parquet"
    assert run(CONVERT, path, table)[1] < MOST
    path.unlink()
    count, peak = run(READ, table)
    assert count == blocks * 256
    assert peak < MOST


def test_a_parquet_file_of_one_row_group(tmp_path):
    """As tools write it that know no streaming; texts that do not compress, so that its pages are as large as they look."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = [os.urandom(2000).hex() for _ in range(150_000)]
    table = pa.table({"prompt": texts, "completion": texts[::-1]})
    size = table.nbytes
    parquet.write_table(
        table, tmp_path / "x.parquet", row_group_size=len(texts), compression="none", use_dictionary=False
    )
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1
    del texts, table
    count, peak = run(READ, tmp_path / "x.parquet")
    assert size > GIB
    assert count == 150_000
    assert peak < MOST
