"""The report of a run: its numbers are those of results.json, its words follow from them, and the page needs nothing but itself."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_run
import pytest
from rich.console import Console

from tutelage.errors import DataError, UsageError
from tutelage.evaluate.report import stage_table, write_report
from tutelage.evaluate.report_words import (
    duration,
    headline,
    judged_by,
    overoptimisation_sentences,
    tax_sentences,
    verdicts,
)
from tutelage.evaluate.run_output import RunOutput, read_run
from tutelage.evaluate.side_by_side import LONGEST, choose_samples

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """The parts of the page that tests look at; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: set[str] = set()
        self.rows: dict[str, list[list[str]]] = {}
        self.text = ""
        self.table = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.add(attributes["id"] or "")
        if tag == "table":
            self.table = attributes["aria-labelledby"] or ""
            self.rows[self.table] = []
        if tag == "tr":
            self.rows[self.table].append([])
        if tag in ("th", "td"):
            self.rows[self.table][-1].append("")
        if tag == "data":
            self.rows[self.table][-1][-1] = f"{attributes['value']}|"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[self.table][-1][-1] += data


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.write_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def page_text(demo: Path) -> str:
    return write_report(demo).read_text()


@pytest.fixture(scope="module")
def page(page_text: str) -> Page:
    return Page(page_text)


def report_on(folder: Path, **results: Any) -> Page:
    """The page of a run folder that holds results.json and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return Page(write_report(folder).read_text())


def test_a_full_run_has_every_section_and_misses_nothing(page: Page) -> None:
    wanted = {"stages", "families", "tax", "reward-model", "overoptimisation", "samples", "training", "made"}
    assert page.sections == wanted
    assert "Not in this report" not in page.text
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert links == {f"#{name}" for name in wanted}


def test_table_of_stages_equals_results(page: Page, demo: Path) -> None:
    stages = json.loads((demo / "results.json").read_text())["stages"]
    head, *lines = page.rows["stages-table"]
    assert [line[0] for line in lines] == ["Base", "Base, few-shot", "SFT", "PPO", "PPO-ptx"]
    clear = ["clear_win_rate_vs_sft", "clear_win_rate_vs_base"]
    keys = [
        "gold",
        "win_rate_vs_sft",
        "win_rate_vs_base",
        *clear,
        "reward",
        "bits_per_byte",
        "kl",
        "length",
        "finished",
    ]
    assert len(head) == 1 + len(keys)
    for line, (name, stage) in zip(lines, stages.items(), strict=True):
        for key, cell in zip(keys, line[1:], strict=True):
            if stage[key] is None or key.endswith(f"win_rate_vs_{name}"):
                assert cell == "–"
            else:
                assert float(cell.split("|")[0]) == stage[key]
    assert lines[4][2] == "0.7034|70.3%67.0–73.8%"
    assert lines[0][6] == "-2.31|−2.31"


def test_family_table_equals_results_and_is_sorted_by_gain(page: Page, demo: Path) -> None:
    stages = json.loads((demo / "results.json").read_text())["stages"]
    _, *lines = page.rows["families-table"]
    assert len(lines) == len(fake_run.FAMILIES)
    gains = []
    for line in lines:
        family = line[0].replace(" ", "_")
        values = [float(cell.split("|")[0]) for cell in line[1:]]
        assert values[0] == stages["sft"]["families"][family]["n"]
        assert values[1:-1] == [stage["families"][family]["gold"] for stage in stages.values()]
        assert values[-1] == pytest.approx(values[5] - values[3])
        gains.append(values[-1])
    assert gains == sorted(gains, reverse=True)


def test_real_data_run_says_what_is_missing_and_who_judged(tmp_path: Path) -> None:
    page = Page(write_report(fake_run.write_run(tmp_path / "real", real_data=True)).read_text())
    assert page.sections == {"stages", "tax", "reward-model", "overoptimisation", "samples", "training", "made"}
    assert "no judge knows the right answers" in page.text
    assert "By the reward model, on 80 held-out prompts" in page.text
    assert "embedded judge" not in page.text
    assert [line[0] for line in page.rows["bits-table"]][1:] == ["Base", "SFT", "PPO", "PPO-ptx", "gzip", "xz"]


def test_results_alone_are_enough(tmp_path: Path) -> None:
    page = report_on(tmp_path / "only", stages={"sft": {"gold": 0.5, "gold_ci": [0.4, 0.6]}})
    assert page.sections == {"stages", "made"}
    assert "SFT scores 0.500 on average (95% interval 0.400–0.600) by the embedded judge" in page.text
    absent = page.text.split("Not in this report")[1]
    for missing in [
        "Win rates",
        "task family",
        "alignment tax",
        "reward model",
        "Over-optimisation",
        "curves",
        "Samples",
        "recipe",
    ]:
        assert missing in absent


def test_hostile_text_stays_text(page: Page, page_text: str) -> None:
    assert "<script" not in page_text
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "form")]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert page.text.count(fake_run.HOSTILE) >= 6, "shown as written: the prompt and five answers"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "</style></title><script>1</script>"
    page = report_on(
        tmp_path / "bad",
        name=bad,
        notes=[bad],
        device=bad,
        data={bad: bad},
        stages={bad: {"gold": 0.5, "families": {bad: {"gold": 0.5, "n": 3}}}, "sft": {"gold": 0.4}},
    )
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(bad) >= 5


def test_the_page_asks_for_nothing(page: Page, page_text: str) -> None:
    outside = page_text.replace("http://www.w3.org/2000/svg", "")
    in_samples = fake_run.HOSTILE.split()[-1]
    assert not re.search(r"https?://", outside.replace(in_samples, ""))
    assert not re.search(r"@import|url\((?!#)", page_text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)


def test_tables_and_figures_are_accessible(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
        if tag in ("svg", "table"):
            assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)


def test_whitespace_of_samples_is_kept(page_text: str) -> None:
    assert "Mira lives in Tolm.\n  - She sells bread.</div>" in page_text
    assert re.search(r"\.text \{[^}]*white-space: pre-wrap", page_text)


def test_same_files_same_bytes(demo: Path, page_text: str) -> None:
    assert write_report(demo).read_text() == page_text


def test_lone_surrogates_and_control_characters_do_not_break_the_page(tmp_path: Path) -> None:
    run = fake_run.write_run(tmp_path / "run", logs=False)
    row = {"prompt": [{"role": "user", "content": "\ud800\x00\x1b[31m"}], "answers": {"sft": {"text": "\udfff\x07"}}}
    (run / "samples.jsonl").write_text(json.dumps(row) + "\n")
    text = write_report(run).read_text()
    assert "\ufffd\ufffd\ufffd[31m" in text


@pytest.mark.parametrize("content", [None, "{", "[]", '{"stages": {}}', '{"seed": 1}'])
def test_missing_or_damaged_results_name_the_path(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "results.json"))):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_bad_rows_name_file_and_line(tmp_path: Path) -> None:
    run = fake_run.write_run(tmp_path / "run", logs=False)
    with (run / "samples.jsonl").open("a") as file:
        file.write('{"family": "sum"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl:191: field 'answers'"):
        write_report(run)
    (run / "samples.jsonl").write_text("")
    (run / "sft").mkdir()
    (run / "sft" / "metrics.jsonl").write_text('{"step": 1}\n{"step"')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not JSON"):
        write_report(run)


def test_a_step_logged_twice_is_one_row(tmp_path: Path) -> None:
    run = fake_run.write_run(tmp_path / "run", logs=False)
    rows = [
        {"step": 2, "loss": 3.0},
        {"step": 1, "loss": 4.0},
        {"step": 2, "heldout_loss": 5.0},
        {"step": 1, "loss": 1.0},
    ]
    fake_run.write_jsonl(run / "sft" / "metrics.jsonl", rows)
    assert read_run(run).metrics["sft"] == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 3.0, "heldout_loss": 5.0}]


# ---- the words


def test_headline_has_the_measured_numbers() -> None:
    assert headline(fake_run.results()) == (
        "By the embedded judge, on 520 held-out prompts, PPO-ptx is preferred to SFT 70.3% of the time "
        "(95% interval 67.0–73.8%) and to the base model 94.7% of the time (95% interval 92.6–96.7%)."
    )
    assert judged_by(fake_run.real_data_results()) == "the reward model"


def test_a_draw_and_a_loss_are_called_so() -> None:
    results = fake_run.results()
    final = results["stages"]["ppo_ptx"]
    assert not [s for s in verdicts(results) if "The interval" in s]
    final |= {"win_rate_vs_sft": 0.52, "win_rate_ci": [0.48, 0.56]}
    assert "includes 50%" in verdicts(results)[0]
    final |= {"win_rate_vs_sft": 0.4, "win_rate_ci": [0.36, 0.44]}
    assert "SFT’s answers are the better ones" in verdicts(results)[0]


def test_the_order_of_stages_is_checked() -> None:
    results = fake_run.results()
    assert "holds for" in verdicts(results)[-1]
    results["stages"]["base_few_shot"]["gold"] = 0.05
    assert "does not hold for" in verdicts(results)[-1]


def test_tax_is_reported_against_sft() -> None:
    stages = {
        "sft": {"bits_per_byte": 1.0, "families": {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.5}}},
        "ppo": {"bits_per_byte": 1.25, "families": {"a": {"accuracy": 0.25}, "b": {"accuracy": 0.75}}},
        "ppo_ptx": {"bits_per_byte": 0.9, "families": {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.75}}},
    }
    bits, accuracy = tax_sentences({"stages": stages})
    assert "PPO (no pretraining mix) raises this by 25.0% to 1.250" in bits
    assert "PPO-ptx (with it) lowers this by 10.0% to 0.900" in bits
    assert "in 1 of 2 families with PPO, in 0 of 2 families with PPO-ptx" in accuracy


def test_overoptimisation_is_named_only_when_it_happened() -> None:
    def run(golds: list[float]) -> RunOutput:
        rows: list[dict[str, Any]] = [
            {"step": i, "kl": i * 1.0, "reward": i * 0.1, "gold": g} for i, g in enumerate(golds)
        ]
        return RunOutput(Path("."), {"stages": {"ppo": {}}}, [], {"ppo": rows}, "")

    (fell,) = overoptimisation_sentences(run([0.6, 0.7, 0.6, 0.4, 0.3]))
    assert "from 0.00 to 0.40, the judge’s from 0.600 to 0.300" in fell
    assert "over-optimisation" in fell
    (rose,) = overoptimisation_sentences(run([0.6, 0.7, 0.8, 0.8, 0.7]))
    assert "over-optimisation" not in rose


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.44, "0.4 s"), (59.7, "1 min 0 s"), (512.4, "8 min 32 s"), (7322, "2 h 2 min"), (41, "41 s")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


# ---- samples


def sample(sft: float, final: float, family: str = "sum") -> dict[str, Any]:
    answers = {"sft": {"text": "a", "gold": sft}, "ppo_ptx": {"text": "b", "gold": final}}
    return {"prompt": [{"role": "user", "content": f"{sft}"}], "family": family, "answers": answers}


def test_samples_are_the_best_the_middle_and_the_worst() -> None:
    rows = [sample(0.5, 0.5), sample(0.9, 0.1), sample(0.1, 0.2), sample(0.0, 1.0), sample(0.3, 0.2)]
    (family,) = choose_samples(rows, "ppo_ptx")
    assert [s.outcome for s in family.samples] == [
        "PPO-ptx higher than SFT by 1.00",
        "PPO-ptx and SFT score the same",
        "PPO-ptx lower than SFT by 0.80",
    ]
    assert family.counts == "5 prompts: PPO-ptx scored higher than SFT on 2, the same on 1, lower on 2"


def test_every_family_is_shown_and_small_ones_whole() -> None:
    rows = [sample(0.5, 0.6, "b"), sample(0.5, 0.6, "a"), sample(0.5, 0.4, "a")]
    assert [(f.name, len(f.samples)) for f in choose_samples(rows, "ppo_ptx")] == [("a", 2), ("b", 1)]


def test_long_answers_are_cut_and_the_rest_counted() -> None:
    row = sample(0.5, 0.5)
    row["answers"]["sft"]["text"] = "x" * (LONGEST + 7)
    shown = choose_samples([row], "ppo_ptx")[0].samples[0].answers[0]
    assert (len(shown.text), shown.left_out) == (LONGEST, 7)


# ---- the terminal


def printed(results: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(stage_table(results))
    return stream.getvalue()


def test_terminal_table_fits_80_columns_and_has_the_numbers() -> None:
    text = printed(fake_run.results())
    assert max(len(line) for line in text.splitlines()) <= 80
    line = next(line for line in text.splitlines() if "PPO-ptx" in line)
    assert line.split() == ["PPO-ptx", "0.758", "70.3%", "94.7%", "1.57", "1.166", "9.4"]
    assert "67.0–73.8%" in text
    assert "by the embedded judge on 520 held-out prompts" in " ".join(text.split())
    assert "…" not in text


def test_terminal_table_without_a_judge() -> None:
    text = " ".join(printed(fake_run.real_data_results()).split())
    assert "by the reward model on 80" in text
    assert "score vs" not in text.split("Base")[0]
