"""Run folders: locks, lineage, atomic files."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tutelage.errors import RunFolderError, UsageError
from tutelage.recipe import Settings
from tutelage.run_folder import hash_of, open_run, write_atomic


class Some(Settings):
    lr: float = 1.0
    out: str = ""


def test_a_second_process_is_refused_by_name(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tutelage.recipe import Settings\n"
        "from tutelage.run_folder import open_run\nclass Some(Settings):\n    lr: float = 1.0\n    out: str = ''\n"
        "with open_run(Path(sys.argv[1]), 'x', Some(), {}):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    with pytest.raises(RunFolderError, match=f"process {holder.pid}"), open_run(tmp_path, "x", Some(), {}):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    for _ in range(100):  # the lock dies with its holder
        try:
            with open_run(tmp_path, "x", Some(), {}) as run:
                assert run.path == tmp_path
            return
        except RunFolderError:
            time.sleep(0.02)
    raise AssertionError("the lock outlived the process that held it")


def test_other_settings_are_named_but_other_places_are_fine(tmp_path):
    with open_run(tmp_path, "x", Some(), {}):
        pass
    with open_run(tmp_path, "x", Some(out="elsewhere"), {}):
        pass
    with pytest.raises(RunFolderError, match=r"lr: 1\.0 there, 2\.0 now"), open_run(tmp_path, "x", Some(lr=2.0), {}):
        pass


def test_a_changed_input_is_named(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_text("one")
    with open_run(tmp_path / "run", "x", Some(), {"rankings": source}) as run:
        assert run.lineage()["inputs"]["rankings"]["sha256"] == hash_of(source)
    source.write_text("two")
    with (
        pytest.raises(RunFolderError, match=r"rankings .* changed"),
        open_run(tmp_path / "run", "x", Some(), {"rankings": source}),
    ):
        pass
    source.unlink()
    with (
        pytest.raises(UsageError, match="rankings not found"),
        open_run(tmp_path / "run", "x", Some(), {"rankings": source}),
    ):
        pass


def test_metrics_after_the_resumed_step_are_forgotten(tmp_path):
    with open_run(tmp_path, "x", Some(), {}) as run:
        for step in range(1, 6):
            run.log(step, {"loss": 1 / step})
        run.forget_after(3)
        run.log(4, {"loss": 0.25})
    assert [row.split(",")[0] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        f'{{"step": {step}' for step in (1, 2, 3, 4)
    ]


def test_a_row_cut_short_and_small_numbers_are_no_trouble(tmp_path):
    with open_run(tmp_path, "x", Some(), {}) as run:
        run.log(1, {"lr": 9.65e-6, "kl": 3e-9})
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        run.forget_after(5)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "lr": 9.65e-06, "kl": 3e-09}\n'


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"


def test_folder_hash_sees_names_and_contents_but_not_logs(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_of(tmp_path)
    (tmp_path / "lock").write_text("process 1")
    assert hash_of(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_of(tmp_path) != first
