"""The harness of bench/: its arithmetic by numbers worked by hand, and participants that fail, as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from participants import beside, counting, dying, hanging, unstartable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import curves, environments, figures, pairs, worker  # noqa: E402
from bench.__main__ import README, RESULTS, WORKS, main, merged, read_results, with_tables  # noqa: E402
from bench.pairs import Case, Pace, Side, measure  # noqa: E402
from bench.rows import random_rows  # noqa: E402

QUICK = Pace(rounds=2, seconds=0.0, warm_up=1)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """Measures some sides; returns what was found and what was told."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        pairs, "speed", lambda: 100.0
    )  # 30 ms of products; test_a_machine_is_described runs the real one
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def measured(*sides: Side, pace: Pace = QUICK):
        told: list[str] = []
        return measure(Case("a case", "tokens/s", sides), pace, Path("/nowhere"), told.append), "\n".join(told)

    return measured


def test_each_side_has_its_turns_and_the_warm_up_does_not_count(run):
    (ours, theirs), told = run(Side("tutelage", "as shipped", counting), Side("peer", "fast", counting, {"speed": 10}))
    assert [turn["amount"] for turn in ours["turns"]] == [2, 3]
    assert [turn["amount"] for turn in theirs["turns"]] == [20, 30]
    assert [turn["further"] for turn in theirs["turns"]] == [{"delay": 0.05}] * 2
    assert all(turn["times"] == 1 and turn["speed"] == 100 and turn["peak_mib"] > 5 for turn in ours["turns"])
    assert ours["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    order = [line.split()[2] for line in told.splitlines() if line.strip().startswith("round")]
    assert order == ["tutelage,", "peer,"] * 2


def test_who_fails_is_named_with_its_stderr_and_the_others_go_on(run):
    found, told = run(
        Side("tutelage", "as shipped", counting),
        Side("a", "broken", unstartable),
        Side("b", "dying", dying, {"turns": 2}),
        Side("c", "without an environment", counting, {}, "elsewhere"),
    )
    assert len(found[0]["turns"]) == 2
    assert found[1]["failed"].startswith("a, broken died\n")
    assert found[1]["failed"].endswith("ValueError: no such model")
    assert found[2]["failed"].startswith("b, dying died")
    assert found[2]["turns"] == []  # also those before its death
    assert "there is no environment elsewhere: make it with" in found[3]["failed"]
    assert all(one["failed"].splitlines()[0] in told for one in found[1:])


def test_who_says_nothing_is_not_waited_for(run, monkeypatch):
    monkeypatch.setattr(pairs, "PATIENCE", 2.0)
    assert run(Side("a", "hanging", hanging))[0][0]["failed"].startswith("a, hanging said nothing for 2 s")


def test_nobody_works_at_the_turn_of_another(run, tmp_path):
    sides = [Side(name, "", beside, {"folder": str(tmp_path), "name": name}) for name in ("tutelage", "peer")]
    run(*sides, pace=Pace(rounds=3, seconds=0.0))
    notes = {name: [float(line) for line in (tmp_path / name).read_text().split()] for name in ("tutelage", "peer")}
    alternating = sorted((at, name) for name, times in notes.items() for at in times)
    changes = sum(one[1] != two[1] for one, two in pairwise(alternating))
    assert min(map(len, notes.values())) > 40
    assert changes < 20  # two starts and eight turns make nine; of two that work at the same time there are hundreds


def test_a_turn_repeats_its_work_until_the_time_is_over(monkeypatch):
    done = iter([(2.0, {"delay": 3.0}), (2.0, {"delay": 1.0}), (2.0, {"delay": 2.0})])
    clock = iter([10.0, 10.5, 11.5, 12.5])
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = worker.take(lambda: next(done), 2.0)
    del found["peak_mib"]
    assert found == {"amount": 6.0, "times": 3, "seconds": 2.5, "further": {"delay": 2.0}}


# ---- arithmetic


def side(peer: str, tuning: str, rates: list[float], delays: list[float] | None = None, **more: str):
    further = [{"p95": delay} for delay in delays] if delays else [{}] * len(rates)
    turns = [
        {"amount": 2 * r, "seconds": 2.0, "further": f, "speed": 90.0} for r, f in zip(rates, further, strict=True)
    ]
    return {"peer": peer, "tuning": tuning, "turns": turns, "versions": {"torch": "2.13.0"}, **more}


def test_ratios_are_of_the_turns_of_one_round():
    ours, theirs = side("tutelage", "", [10, 40, 60, 30, 50]), side("peer", "", [5, 10, 60, 10, 20])
    # 2, 4, 1, 3, 2.5, where the ratio of the medians is 40 / 10 = 4
    assert figures.ratio(ours, theirs) == (2.5, 2.0, 3.0)
    assert figures.ratio(ours, side("peer", "", [])) is None


def test_of_delays_less_is_better():
    ours, theirs = side("tutelage", "", [1, 1], [0.5, 1.0]), side("peer", "", [1, 1], [1.0, 3.0])
    assert figures.ratio(ours, theirs, "p95") == (2.5, 2.25, 2.75)
    slow, quick = side("peer", "a", [1], [3.0]), side("peer", "b", [1], [2.0])
    assert figures.best([slow, quick], "p95") is quick


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], (3, 3, 3)), ([4.0, 1.0, 3.0, 2.0], (2.5, 1.75, 3.25)), ([5.0, 1.0, 3.0], (3, 2, 4))],
)
def test_median_and_quartiles(values, expected):
    assert figures.spread(values) == expected


def case(*sides, left_out: str = "", further=None):
    return {"case": "S", "unit": "tokens/s", "further": further or {}, "left_out": left_out, "sides": sides}


def test_a_line_has_both_as_shipped_and_both_at_their_best():
    sides = [
        side("tutelage", "as shipped", [100, 100]), side("tutelage", "compiled", [150, 150]),
        side("peer", "as shipped", [20, 20]), side("peer", "bf16m", [10, 10]), side("peer", "mallopt", [30, 30]),
        side("other", "BF16", [], failed="other, BF16 died\nout of memory"),
    ]  # fmt: skip
    found = figures.lines(case(*sides))
    shown = (
        "S",
        "tokens/s",
        "100",
        "150 (compiled)",
        "peer",
        "20",
        "30 (mallopt)",
        "5.00 [5.00, 5.00]",
        "5.00 [5.00, 5.00]",
    )
    assert found[0] == shown
    assert found[1] == ("S", "tokens/s", "100", "150 (compiled)", "other", "failed: other, BF16 died", "", "", "")
    assert len(found) == 2


def test_a_side_that_failed_is_not_the_best_and_its_ratio_is_not_shown():
    sides = [
        side("tutelage", "as shipped", [6.0]),
        side("peer", "as shipped", [], failed="x"),
        side("peer", "b", [3.0]),
    ]
    assert figures.lines(case(*sides))[0][5:] == ("failed", "3 (b)", "", "2.00 [2.00, 2.00]")


def test_further_figures_have_lines_of_their_own():
    sides = [side("tutelage", "", [4, 4], [0.5, 0.5]), side("peer", "", [2, 2], [2.0, 2.0])]
    found = figures.lines(case(*sides, further={"p95": "s, p95"}))
    assert found[1] == ("S", "s, p95", "0.5", "", "peer", "2", "", "4.00 [4.00, 4.00]", "4.00 [4.00, 4.00]")


def result(*cases, date: str = "2026-01-31"):
    machine = {"processor": "A CPU", "flags": ["avx2"], "cores": 2, "threads": 2, "memory_gib": 8}
    when = {"date": date, "machine": machine, "pace": {"rounds": 2, "seconds": 3.0}}
    return {"title": "Work", "cases": [when | each for each in cases]}


def test_tables_stand_between_their_marks_with_machine_and_versions():
    page = "a\n<!-- tables -->\nold\n<!-- end of tables -->\nz\n"
    told = with_tables(
        page, [result(case(side("tutelage", "", [2]), side("peer", "", [1])), case(left_out="no | model"))]
    )
    assert told.startswith(
        "a\n<!-- tables -->\n### Work\n\n2026-01-31, A CPU, 2 cores, 2 threads, 8 GiB (avx2); 2 rounds, "
    )
    assert "ran at 90 to 90 GFLOP/s, median 90; torch 2.13.0.\n" in told
    assert "| S | tokens/s | 2 |  | peer | 1 |  | 2.00 [2.00, 2.00] | 2.00 [2.00, 2.00] |\n" in told
    assert "| S |  |  |  | left out: no / model |" in told
    assert told.endswith("<!-- end of tables -->\nz\n")
    assert "old" not in told


def test_cases_of_several_days_say_which_are_of_which():
    first, second = case(side("tutelage", "", [2]), side("peer", "", [1])), case(left_out="no model")
    both = result(first)["cases"] + result(second | {"case": "M"}, date="2026-02-01")["cases"]
    told = figures.page([{"title": "Work", "cases": both}])
    assert "\nS: 2026-01-31, A CPU" in told
    assert "\nM: 2026-02-01, A CPU" in told


def test_cases_that_are_measured_again_take_their_places():
    old, new = [{"case": "S", "sides": 1}, {"case": "M", "sides": 1}], [{"case": "L"}, {"case": "S", "sides": 2}]
    assert merged(old, new) == [{"case": "S", "sides": 2}, {"case": "M", "sides": 1}, {"case": "L"}]


def test_rounded_weights_are_held_against_rounded_weights():
    sides = [
        side("tutelage", "as shipped", [4]), side("tutelage", "bf16", [8]), side("tutelage quantised", "int8", [12]),
        side("peer", "BF16", [4]), side("peer quantised", "Q8_0", [6]),
    ]  # fmt: skip
    plain, rounded = figures.lines(case(*sides))
    assert plain[2:] == ("4", "8 (bf16)", "peer", "4", "", "1.00 [1.00, 1.00]", "2.00 [2.00, 2.00]")
    assert rounded[2:] == ("12", "", "peer quantised", "6", "", "2.00 [2.00, 2.00]", "2.00 [2.00, 2.00]")


def test_the_page_has_the_tables_of_the_results_that_are_there():
    assert README.read_text() == with_tables(README.read_text(), read_results(RESULTS))


def test_growth_is_the_power_between_the_last_two_points():
    points = [{"x": 1, "seconds": [9.0], "mib": 50}, {"x": 10, "seconds": [2.0, 1.0, 3.0], "mib": 100}]
    points += [{"x": 40, "seconds": [32.0], "mib": 200}]
    assert curves.growth(points, curves.seconds_of) == pytest.approx(2.0)
    row = curves.table([{"name": "work", "x": "K", "points": points, "failed": {}}]).splitlines()[2]
    assert row == "| work, K | 1 | 40 | 9 to 32 | 50 to 200 | x^2.00 **faster than in proportion** | x^0.50 |"


def test_curves_are_measured_as_a_program_and_drawn(tmp_path):
    """A participant is found by its module's name, which is another where the module is the program.

    A curve that is not measured again stays.
    """
    machine, points = {"processor": "another", "threads": 64}, [{"x": x, "seconds": [x], "mib": 1} for x in (1, 2)]
    older = {"name": "older", "x": "K", "date": "2026-01-01", "machine": machine, "pace": {"rounds": 5}}
    older |= {"points": points, "failed": {}}
    (tmp_path / "curves.json").write_text(json.dumps({"curves": [older]}))
    words = ["-m", "bench.curves", "--quick", "--curve", "reading demonstrations", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kept, curve = found = json.loads((tmp_path / "curves.json").read_text())["curves"]
    assert kept == older
    assert [point["x"] for point in curve["points"]] == [1000, 4000]
    drawn = (tmp_path / "curve-reading-demonstrations.svg").read_text()
    assert ">1,000<" in drawn
    assert "mathdefault" not in drawn
    assert "|" in done.stdout
    page = curves.section(found)
    first, second = page.index("2026-01-01, another, 64 threads; 5 rounds."), page.index(f"{curve['date']}, ")
    assert first < page.index("| older, K |") < second < page.index("| reading demonstrations, examples |")


def test_a_curve_without_points_has_a_line_that_says_why_and_no_plot():
    failed = {"name": "work", "x": "K", "points": [], "failed": {"3": "K, 3 died\nMemoryError"}}
    failed |= {"date": "", "machine": {"processor": "", "threads": 2}, "pace": {"rounds": 5}}
    assert "| work | failed: K, 3 died |" in curves.section([failed])
    assert "![" not in curves.section([failed])


# ---- the rest


def test_rows_are_the_same_everywhere_and_hold_no_control_tokens():
    rows = random_rows(3, 50, 4096, seed=1)
    assert rows == random_rows(3, 50, 4096, seed=1) != random_rows(3, 50, 4096, seed=2)
    assert all(300 <= i < 4096 for row in rows for i in row)


def test_an_environment_is_there_once_its_file_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "wrong.txt").write_text("./no-such-folder\n")
    folder = tmp_path / "envs"
    with pytest.raises(environments.Missing, match=r"make it with `.*-m bench\.environments empty`"):
        environments.python_of("empty", folder)
    assert environments.make("wrong", folder).startswith("cannot be had: ERROR")
    with pytest.raises(environments.Missing, match="could not be made: ERROR"):
        environments.python_of("wrong", folder)
    assert [environments.make("empty", folder) for _ in range(2)] == ["made", "is there"]
    assert environments.python_of("empty", folder).exists()


@pytest.mark.usefixtures("run")
def test_what_is_measured_is_written_before_the_next_case_begins(monkeypatch, tmp_path):
    def cases(_):
        yield Case("first", "tokens/s", [Side("tutelage", "as shipped", counting)])
        yield Case("second", "tokens/s", [Side("tutelage", "as shipped", counting)])

    def stopped_at_the_second(case: Case, *rest: object):
        if case.name == "second":
            raise KeyboardInterrupt
        return measure(case, *rest)

    monkeypatch.setattr("bench.sft.cases", cases)
    monkeypatch.setattr("bench.__main__.measure", stopped_at_the_second)
    (tmp_path / "sft.json").write_text(
        '{"title": "SFT", "cases": [{"case": "first"}, {"case": "second", "sides": []}]}'
    )
    with pytest.raises(KeyboardInterrupt):
        main(["sft", "--quick", "--out", str(tmp_path)])
    first, second = json.loads((tmp_path / "sft.json").read_text())["cases"]
    assert first["sides"][0]["turns"]
    assert second == {"case": "second", "sides": []}  # of an earlier run
    monkeypatch.setattr("bench.__main__.measure", measure)
    monkeypatch.setattr("bench.sft.cases", lambda _: [next(cases(_))])
    main(["sft", "--quick", "--out", str(tmp_path)])
    assert [case["case"] for case in json.loads((tmp_path / "sft.json").read_text())["cases"]] == ["first"]


def test_an_unknown_work_is_said_in_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["pretrian"])
    assert f"there is no pretrian; there are {', '.join(WORKS)}" in capsys.readouterr().err


def test_a_machine_is_described_and_its_speed_measured():
    from bench import machine

    found = json.loads(json.dumps(machine.describe()))
    assert found["threads"] >= 1
    assert found["memory_gib"] >= 1
    assert machine.speed() > 0
