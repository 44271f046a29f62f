"""`tutelage runs`: what it says of run folders in every state, and what it may delete."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.filesize import decimal

from tutelage.cli import app as cli
from tutelage.errors import TrainingError
from tutelage.runs import commands as runs
from tutelage.runs.folder import RunFolder, open_run
from tutelage.runs.hashes import hash_of
from tutelage.settings import Inputs, Settings


class Some(Settings):
    lr: float = 1.0
    epochs: int = 1


class Files(Inputs):
    text: Path | None = None
    checkpoint: Path | None = None


def checkpoint(folder: Path, run: RunFolder, weights: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights").write_text(weights)
    shutil.copy(run.path / "lineage.json", folder)
    return folder


def trained(run: RunFolder, steps: int, of: int) -> None:
    """What a stage leaves after some steps."""
    run.note("training", first=0, steps=of, device="cpu", processor="x86_64", dtype="float32", threads=1, torch="2")
    for step in range(1, steps + 1):
        run.log(step, {"loss": 1 / step, "heldout_loss": 2 / step} if step == 2 else {"loss": 1 / step})
    run.state.write_text("state")
    run.note_progress(steps // 2 * 2, of)


@pytest.fixture
def root(tmp_path) -> Path:
    """base (finished), sft from a checkpoint of base (finished), stopped, failed."""
    text = tmp_path / "text"
    text.write_text("text")
    root = tmp_path / "runs"
    with open_run(root / "base", "pretrain", Some(), Files(text=text)) as run:
        trained(run, 8, 8)
        for step in (2, 4, 6):
            checkpoint(run.checkpoints / f"step-{step:08d}", run, "x" * 1000 * step)
        (run.checkpoints / "best").symlink_to("step-00000004")
        checkpoint(run.checkpoint, run, "end")
        run.finish({"bits_per_byte": 1.25})
    start = Files(checkpoint=root / "base" / "checkpoints" / "step-00000002")
    with open_run(root / "group" / "sft", "sft", Some(epochs=2), start) as run:
        trained(run, 3, 3)
        run.finish({"best_step": 2, "left_out": {"too long": 4}})
    with open_run(root / "stopped", "sft", Some(lr=0.5), Files(checkpoint=root / "base")) as run:
        trained(run, 5, 9)
        checkpoint(run.checkpoints / "step-00000004", run, "x")
    with pytest.raises(TrainingError), open_run(root / "failed", "reward", Some(), Files()) as run:
        raise TrainingError("the loss is no number")
    return root


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["runs", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def cells(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_list_says_how_each_run_stands(capsys, root):
    with open_run(root / "running", "ppo", Some(), Files()) as open_one:
        trained(open_one, 4, 6)
        (root / "broken").mkdir()
        (root / "broken" / "recipe.yaml").write_text("a: 1")
        (root / "broken" / "lineage.json").write_text("{")
        code, out, _ = run(capsys, "list", root)
    assert code == 0
    header, *rows = cells(out)
    assert header == ["run", "kind", "state", "steps", "figure", "when", "size"]
    assert [[row[0].removeprefix(f"{root}/"), *row[1:4]] for row in rows] == [
        ["base", "pretrain", "finished", "8/8"],
        ["broken", "?", "damaged", ""],
        ["failed", "reward", "failed", ""],
        ["group/sft", "sft", "finished", "3/3"],
        ["running", "ppo", "running", "4/6"],
        ["stopped", "sft", "stopped", "4/9"],
    ]
    figures = [row[4] for row in rows if row[1] in ("pretrain", "sft")]
    assert figures == ["bits_per_byte 1.25", "heldout_loss 1", "heldout_loss 1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", rows[0][5])
    everything = sum(
        path.stat().st_size for path in (root / "base").rglob("*") if path.is_file() and "best" not in path.parts
    )
    assert rows[0][6] == decimal(everything)


def test_list_on_a_terminal_fits_it(capsys, root, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    _, out, _ = run(capsys, "list", root)
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert "\t" not in out
    assert max(map(len, plain.splitlines())) <= 90
    assert "finished" in plain


def test_show_says_what_made_a_run_and_how_it_went(capsys, root):
    code, out, _ = run(capsys, "show", root / "group" / "sft")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{root}/group/sft: sft, finished"
    assert "epochs: 2" in lines
    start, text = (hash_of(path)[:12] for path in (root / "base/checkpoints/step-00000002", root.parent / "text"))
    tree = lines[lines.index("made from") + 2 :]
    assert re.fullmatch(rf"  checkpoint: .*step-00000002 \[{start}\] by pretrain \(tutelage .*\)", tree[0])
    assert re.fullmatch(rf"    text: .*/text \[{text}\]", tree[1])
    events = [line[21:].split(" (")[0] for line in lines[lines.index("sessions") + 1 :][:3]]
    assert events[1:] == ["from step 0 of 3, device cpu processor x86_64 dtype float32 threads 1 torch 2", "finished"]
    assert "left_out.too long\t4" in lines
    assert "stopped at step 4 of 9" in run(capsys, "show", root / "stopped")[1]
    assert "failed with: the loss is no number" in run(capsys, "show", root / "failed")[1]
    out = run(capsys, "show", root / "base")[1]
    kept = [*sorted((root / "base" / "checkpoints").glob("step-*")), root / "base" / "checkpoint"]
    sizes = [decimal(sum(path.stat().st_size for path in folder.iterdir())) for folder in kept]
    assert cells(out)[-4:] == [
        [str(folder), best, size] for folder, best, size in zip(kept, ["", "best", "", ""], sizes, strict=True)
    ]


def test_show_names_who_works_there(capsys, root):
    with open_run(root / "running", "ppo", Some(), Files()):
        assert re.search(r"ppo, running by process \d+ on \S+ since", run(capsys, "show", root / "running")[1])


def test_compare_shows_what_differs_and_the_figures_side_by_side(capsys, root):
    code, out, _ = run(capsys, "compare", root / "group" / "sft", root / "stopped")
    assert code == 0
    settings, figures = out.split("\nfigures\n")
    assert [row[0] for row in cells(settings)[3:]] == ["inputs.checkpoint", "lr", "epochs"]
    assert cells(settings)[-2:] == [["lr", "1", "0.5"], ["epochs", "2", "1"]]
    assert ["loss", "0.33333", "0.2"] in cells(figures)
    assert ["best_step", "2", ""] in cells(figures)
    same = shutil.copytree(root / "stopped", root / "twin")
    assert run(capsys, "compare", root / "stopped", same)[1].startswith("the settings are the same")


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name != "lock"}


def test_prune_deletes_what_finished_runs_no_longer_need_and_says_so(capsys, root):
    """The best stays, and so does the one that another run began from; a run that waits to go on loses nothing."""
    (root / "base" / "state.pt").write_text("x" * 5000)  # killed between done.json and this
    before = files(root)
    target = root / "base" / "checkpoints" / "step-00000006"
    code, out, _ = run(capsys, "prune", root)
    assert code == 0
    assert files(root) == before
    assert ["would be deleted", "path", "size"] in cells(out)
    freed = sum(path.stat().st_size for path in (*target.iterdir(), root / "base" / "state.pt"))
    assert f"would free {decimal(freed)}; --delete deletes it" in out
    _, out, _ = run(capsys, "prune", root, "--delete")
    assert before - files(root) == {
        "base/state.pt", "base/checkpoints/step-00000006/weights", "base/checkpoints/step-00000006/lineage.json"
    }  # fmt: skip
    assert f"freed {decimal(freed)}" in out
    assert f"{root}/base/checkpoints/step-00000002 is kept: another run began from it" in out
    assert f"kept, because they are not finished: {root}/failed, {root}/stopped" in out
    assert run(capsys, "prune", root, "--delete")[1].splitlines()[-2] == "freed 0 bytes"


def test_prune_finds_tokenised_text_and_earlier_results_and_counts_a_linked_file_once(capsys, root):
    """An earlier result goes only where the present one is finished, whether or not it was finished itself."""
    for name in ("base", "group/sft"):
        (root / name / "tokens" / "text").mkdir(parents=True)
    shard = root / "base" / "tokens" / "text" / "ids.npy"
    shard.write_text("t" * 30_000)
    (root / "group/sft/tokens/text/ids.npy").hardlink_to(shard)
    shutil.copytree(root / "stopped", root / "base.previous")
    shutil.copytree(root / "stopped", root / "stopped.previous-2")
    earlier = sum(path.stat().st_size for path in (root / "base.previous").rglob("*") if path.is_file())
    _, out, _ = run(capsys, "prune", root)
    found = {(row[0], row[1].removeprefix(f"{root}/")): row[2] for row in cells(out) if len(row) == 3}
    assert found["earlier result", "base.previous"] == decimal(earlier)
    assert found["tokenised text", "base/tokens"] == decimal(0)
    assert found["tokenised text", "group/sft/tokens"] == decimal(30_000)
    assert ("earlier result", "stopped.previous-2") not in found
    result = hash_of(root / "base")
    run(capsys, "prune", root, "--delete")
    assert not (root / "base.previous").exists()
    assert not shard.exists()
    assert (root / "stopped.previous-2").exists()
    assert hash_of(root / "base") == result


def test_metrics_as_csv(capsys, root):
    code, out, _ = run(capsys, "show", root / "stopped", "--csv")
    assert code == 0
    assert list(csv.reader(out.splitlines()))[:3] == [
        ["step", "loss", "heldout_loss"], ["1", "1.0", ""], ["2", "0.5", "1.0"],
    ]  # fmt: skip
    (root / "recipe.yaml").write_text("name: x\nout: y\nsteps: {base: {kind: pretrain}}\n")
    code, _, err = run(capsys, "show", root, "--csv")
    assert (code, err) == (
        2,
        f"tutelage: {root} is the folder of a whole recipe: give that of a step, such as {root}/base\n",
    )


def test_prune_of_one_run_knows_its_neighbours(capsys, root):
    shutil.move(root / "group" / "sft", root / "sft")
    _, out, _ = run(capsys, "prune", root / "base", "--delete")
    assert "step-00000002 is kept" in out
    assert (root / "base" / "checkpoints" / "step-00000002").exists()
    assert not (root / "base" / "checkpoints" / "step-00000006").exists()


def test_resume_is_refused_while_somebody_works_there(capsys, root):
    with open_run(root / "running", "ppo", Some(), Files()):
        code, _, err = run(capsys, "resume", root / "running")
    assert code == 2
    assert re.match(rf"tutelage: {root}/running is held by process \d+ on ", err)


def test_resume_of_a_stage_that_is_not_known_here_says_so(capsys, root):
    with open_run(root / "strange", "distil", Some(), Files()):
        pass
    code, _, err = run(capsys, "resume", root / "strange")
    assert (code, "was made by 'distil', which this version" in err) == (2, True)


def test_nothing_of_it_loads_torch(root):
    """In a fresh interpreter; and a folder that is damaged stops none of the others from being listed."""
    commands = [["list", root], ["show", root / "base"], ["compare", root / "base", root / "stopped"], ["prune", root]]
    code = (
        f"import sys\nfrom tutelage.cli import app as cli\nfor words in {[[str(w) for w in words] for words in commands]}:\n"
        "    assert cli.main(['runs', *words]) == 0\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_log_that_is_being_written_is_read_as_far_as_it_is_whole(root):
    with (root / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    assert runs.Run.read(root / "stopped").figures["step"] == 5


def test_prune_from_another_folder_knows_inputs_that_were_named_from_where_a_run_was_started(capsys, root, monkeypatch):
    monkeypatch.chdir(root.parent)
    last = root.relative_to(root.parent) / "base" / "checkpoints" / "step-00000006"
    with open_run(root / "later", "sft", Some(epochs=3), Files(checkpoint=last)) as later:
        trained(later, 3, 3)
        later.finish({})
    monkeypatch.chdir(root)
    _, out, _ = run(capsys, "prune", ".", "--delete")
    assert "step-00000006 is kept: another run began from it" in out
    assert (root / "base" / "checkpoints" / "step-00000006").exists()
