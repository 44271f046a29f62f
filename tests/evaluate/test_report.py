"""The report: its numbers are those of results.json, its parts follow from what was measured, and the page needs only itself."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fake_run
import pytest
from rich.console import Console

from tutelage.errors import RunFolderError, UsageError
from tutelage.evaluate.report.drawing import PALETTE
from tutelage.evaluate.report.page import ReportInputs, ReportSettings, main, with_code
from tutelage.evaluate.report.view import Evaluation, choose_samples, comparison_table, fixed, span, update_figures
from tutelage.evaluate.seeds import spreads

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """The parts of the page that tests look at; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: list[str] = []
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
            self.sections.append(attributes["id"] or "")
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
            self.rows[self.table][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return main(*fake_run.write_all(folder), folder / "report")


@pytest.fixture(scope="module")
def page_text(demo: Path) -> str:
    return (demo / "report.html").read_text()


@pytest.fixture(scope="module")
def page(page_text: str) -> Page:
    return Page(page_text)


def report_on(folder: Path, results: dict[str, Any], rows: list[dict[str, Any]], **settings: Any) -> Page:
    """The page of an evaluation without runs."""
    inputs = ReportInputs(results=fake_run.write_evaluation(folder / "evaluate", results, rows))
    return Page((main(ReportSettings(**settings), inputs, folder / "report") / "report.html").read_text())


def bare(**models: dict[str, Any]) -> dict[str, Any]:
    """results.json of models with few figures."""
    everything = {"parameters": 1000, "length": 3.0, "finished": 1.0, "kl": None, "bits_per_byte": None}
    filled = {name: everything | figures for name, figures in models.items()}
    return {"models": filled, "against": [], "prompts": 3, "reference": None, "clear_difference": None}


def test_a_full_report_has_every_section(page: Page, demo: Path) -> None:
    wanted = ["models", "families", "tax", "reward-models", "rl", "samples", "training", "made"]
    assert page.sections == wanted
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["report.zh.html", *(f"#{name}" for name in wanted)]
    assert (demo / "plots" / "overoptimisation.svg").exists()
    assert "Base models are asked in plain text." in page.text, "code without its backticks"


def test_table_of_models_equals_results(page: Page, demo: Path) -> None:
    models = json.loads((demo.parent / "evaluate" / "results.json").read_text())["models"]
    head, *lines = page.rows["models-table"]
    assert [line[0] for line in lines] == ["Base", "Base, few-shot", "SFT", "PPO", "PPO-ptx"]
    wins = [f"{kind}win_rate_vs_{other}" for kind in ("", "clear_") for other in ("sft", "base")]
    keys = ["gold", *wins, "reward", "bits_per_byte", "kl", "length", "finished"]
    assert len(head) == 1 + len(keys)
    for line, (name, figures) in zip(lines, models.items(), strict=True):
        for key, cell in zip(keys, line[1:], strict=True):
            if figures[key] is None or key.endswith(f"win_rate_vs_{name}"):
                assert cell == "–"
            else:
                assert float(cell.split("|")[0]) == figures[key]
    assert lines[0][1] == "0.09|0.0900.069–0.112"
    assert lines[0][6].endswith("|−2.14")


def test_accuracy_stands_with_its_number_of_pairs(page: Page, page_text: str) -> None:
    head, *lines = page.rows["reward-table"]
    assert head[1:3] == ["Accuracy", "Pairs"]
    assert [line[2] for line in lines] == ["4261|4,261297 prompts"] * 2
    figures = [text for text in re.findall(r"<div><dt>.*?</div>", page_text, re.DOTALL) if "accuracy" in text]
    assert len(figures) == 2
    assert all("95% interval" in text and "4,261 pairs" in text for text in figures)


def test_an_rl_runs_updates_by_hand(page: Page) -> None:
    rows = [
        {"step": 1, "kl": 0.5, "clip_fraction": 0.1, "approx_kl_k3": 0.01, "first_ratio": 1.0, "entropy": 2.0},
        {"step": 2, "kl": 1.5, "clip_fraction": 0.3, "approx_kl_k3": 0.03, "first_ratio": 0.9, "entropy": 1.0},
        {"step": 3, "kl": 1.0},  # over the KL budget: measured, and not trained on
    ]
    assert update_figures(rows) == {
        "updates": (3, None),
        "first_ratio": (0.9, None),
        "clip_fraction": (pytest.approx(0.2), 0.3),
        "approx_kl": (pytest.approx(0.02), 0.03),
        "last_kl": (1.0, None),
        "entropy": (1.0, None),
        "explained_variance": (None, None),
    }
    head, *lines = page.rows["rl-table"]
    assert [line[0] for line in lines] == ["PPO", "PPO-ptx"]
    assert [title.split("farthest")[0] for title in head[:3]] == ["Run", "Updates", "First ratio"]
    assert lines[0][2] == "1.0|1.0000"


def test_every_cell_of_a_wide_table_names_its_column_for_narrow_screens(page_text: str) -> None:
    for table in re.findall(r'<table class="(?:wide|even)".*?</table>', page_text, re.DOTALL):
        assert "<td>" not in table
        assert all(re.findall(r'<td data-title="([^"]*)"', table))


def test_family_table_equals_results_and_is_sorted_by_gain(page: Page, demo: Path) -> None:
    models = json.loads((demo.parent / "evaluate" / "results.json").read_text())["models"]
    _, *lines = page.rows["families-table"]
    assert len(lines) == len(fake_run.FAMILIES)
    gains = []
    for line in lines:
        family = line[0].replace(" ", "_")
        values = [float(cell.split("|")[0]) for cell in line[1:]]
        assert values[0] == 27
        assert values[1:-1] == [figures["families"][family]["gold"] for figures in models.values()]
        assert values[-1] == pytest.approx(values[5] - values[3])
        gains.append(values[-1])
    assert gains == sorted(gains, reverse=True)


def test_facts_of_runs_come_from_their_folders(page: Page) -> None:
    _, *lines = page.rows["runs-table"]
    assert [line[0] for line in lines] == ["Pretraining", "SFT", "Reward model", "PPO", "PPO-ptx"]
    assert lines[0][1:] == ["61.5|0:01:02", "300|300", "0.205|0.205", "1.25|1.25", "cpu"]
    assert "left_out.too_long" in page.text
    assert "batch: 32  # <sequences>" in page.text


def test_a_recipe_of_other_steps_is_reported_by_its_labels(tmp_path: Path) -> None:
    """Two SFT steps, two reward models and three PPO steps, none of which has a name that the code knows."""
    text = (main(*fake_run.write_all(tmp_path, fake_run.MANY), tmp_path / "report") / "report.html").read_text()
    page = Page(text)
    rounds = ["Round one", "Round two", "Round three"]
    assert [line[0] for line in page.rows["models-table"]][1:] == ["Base", "SFT on code", "SFT on chat", *rounds]
    assert [line[0] for line in page.rows["runs-table"]][-5:] == ["Helpful RM", "Honest RM", *rounds]
    assert [line[0] for line in page.rows["reward-table"]][1:] == [
        "Helpful RMHeldout", "Helpful RMHeldout labellers", "Honest RMHeldout", "Honest RMHeldout labellers",
    ]  # fmt: skip
    assert "Round three is preferred to SFT on chat" in " ".join(page.text.split())
    for name in ("training_ppo_a_ppo_b_ppo_c_entropy", "training_rm_1_rm_2_accuracy", "training_sft_2_loss"):
        drawing = (tmp_path / "report" / "plots" / f"{name}.svg").read_text()
        assert all(label in drawing for label in (rounds if "ppo" in name else []))
    assert page.text.count("Round three against SFT on chat:") > len(fake_run.FAMILIES)
    assert not re.search(
        r"\b(PPO|ppo|ptx|sft_1|rm_1)\b", page.text.split("Model by model")[1].split("alignment tax")[0]
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_any_number_of_models(tmp_path: Path, count: int) -> None:
    gold = {f"m{i}": i / 10 for i in range(count)}
    recipe = fake_run.Recipe(gold=gold, against=("m0",), runs={}, labels={})
    page = report_on(tmp_path, fake_run.results(recipe), fake_run.samples(gold, 20))
    assert [line[0] for line in page.rows["models-table"]][1:] == [f"M{i}" for i in range(count)]
    colours = {a["style"] for tag, a in page.tags if tag == "div" and a.get("class") == "answer"}
    assert len(colours) == min(count, 7)


def test_without_a_judge_the_reward_model_decides_and_the_page_says_so(tmp_path: Path) -> None:
    page = Page((main(*fake_run.write_all(tmp_path, judge=False), tmp_path / "out") / "report.html").read_text())
    assert page.sections == ["models", "tax", "reward-models", "rl", "samples", "training", "made"]
    assert "By the reward model, on 520 held-out prompts" in page.text
    assert "There is no judge for these prompts" in page.text
    assert "by the judge" not in page.text.lower()
    assert [line[0] for line in page.rows["bits-table"]][1:] == ["Base", "SFT", "PPO", "PPO-ptx", "gzip", "xz"]


def test_results_alone_are_enough(tmp_path: Path) -> None:
    page = report_on(tmp_path, bare(only={"gold": 0.5, "gold_ci": [0.4, 0.6]}), [])
    assert page.sections == ["models", "samples"]
    assert page.rows["models-table"][1] == ["Only", "0.5|0.5000.400–0.600", "3.0|3.0", "1.0|100.0%"]


def test_an_interval_around_one_half_or_below_is_called_so(tmp_path: Path) -> None:
    results = fake_run.results()
    for ends, words in (([0.48, 0.56], "includes 50%"), ([0.36, 0.44], "is below 50%")):
        results["models"]["ppo_ptx"]["win_rate_vs_sft_ci"] = ends
        page = report_on(tmp_path / words, results, [])
        assert f"The interval against SFT {words}" in " ".join(page.text.split())


def test_models_may_be_chosen_and_ordered(tmp_path: Path) -> None:
    chosen = {"models": ["ppo", "sft"], "labels": fake_run.INSTRUCT.labels}
    page = report_on(tmp_path, fake_run.results(), fake_run.samples(fake_run.INSTRUCT.gold), **chosen)
    assert [line[0] for line in page.rows["models-table"]][1:] == ["PPO", "SFT"]
    assert "Base" not in page.text
    with pytest.raises(UsageError, match=r"'pppo' is not one of the models; did you mean 'ppo'\?"):
        report_on(tmp_path / "again", fake_run.results(), [], models=["pppo"])


def test_the_spread_over_seeds_by_hand(tmp_path: Path) -> None:
    def made(gold: float, **more: Any) -> dict[str, Any]:
        return bare(only={"gold": gold, "gold_ci": [0.0, 1.0], "kl": None, **more})

    # 0.4, 0.5, 0.9: mean 0.6, squared deviations 0.04 + 0.01 + 0.09, divided by 2: 0.07
    spread = spreads({"0": made(0.4), "1": made(0.5, extra=1), "2": made(0.9)})["only"]
    assert spread["gold"] == pytest.approx((0.6, math.sqrt(0.07), 0.4, 0.9))
    assert "kl" not in spread
    assert "extra" not in spread
    folders = {
        str(i): fake_run.write_evaluation(tmp_path / str(i), made(gold), []) for i, gold in enumerate((0.4, 0.5, 0.9))
    }
    inputs = ReportInputs(results=folders.pop("0"), seeds=folders)
    page = Page((main(ReportSettings(), inputs, tmp_path / "report") / "report.html").read_text())
    assert page.sections == ["models", "seeds", "samples"]
    assert page.rows["seeds-table"][1][:2] == ["Only", f"{spread['gold'].mean}|0.600± 0.2650.400–0.900"]
    other = fake_run.write_evaluation(tmp_path / "other", bare(another={}), [])
    with pytest.raises(UsageError, match="seed '3': there is no model 'only'; it has another"):
        main(ReportSettings(), inputs.model_copy(update={"seeds": {"3": other}}), tmp_path / "out")


def test_code_loses_its_backticks_and_stays_text() -> None:
    text = "Use `a < b`:\n```python\ndef f():\n    return '<b>'\n```\nDone, ``` and ` stay."
    assert with_code(text) == (
        'Use <code>a &lt; b</code>:<code class="block">def f():\n    return &#39;&lt;b&gt;&#39;</code>Done, ``` and ` stay.'
    )


def test_hostile_text_stays_text(page: Page, page_text: str) -> None:
    assert "<script" not in page_text
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "iframe", "object", "form")]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert page.text.count(fake_run.HOSTILE) == 6, "shown as written: the prompt and five answers"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "</style></title><script>1</script>"
    figures = {"gold": 0.5, "gold_ci": [0.4, 0.6], "families": {bad: {"gold": 0.5, "n": 3}}, "languages": {}}
    page = report_on(tmp_path, bare(**{bad: figures}), [], name=bad, notes=[bad], labels={bad: bad})
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(bad) >= 5


def test_the_page_asks_for_nothing(page: Page, page_text: str) -> None:
    in_samples = fake_run.HOSTILE.split()[-1]
    assert not re.search(r"https?://(?!www\.w3\.org/)", page_text.replace(in_samples, ""))
    assert not re.search(r"@import|url\((?!#)", page_text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value == "report.zh.html" or value.startswith(("#", "data:")), (tag, value)


def test_tables_and_figures_are_accessible(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
        if tag == "table":
            assert attributes["aria-labelledby"] in ids
        if tag == "svg":
            assert attributes["aria-label"]


def test_the_colours_of_plots_are_those_of_the_page_and_have_dark_ones(page_text: str) -> None:
    declared = re.findall(r"--([a-z]+): (#[0-9a-f]{6});", page_text)
    assert len(declared) == 2 * len(PALETTE)
    assert dict(declared[: len(PALETTE)]) == PALETTE
    assert dict(declared[len(PALETTE) :]).keys() == PALETTE.keys()


def test_whitespace_of_samples_is_kept(page_text: str) -> None:
    assert "Mira lives in Tolm.\n  - She sells bread.</div>" in page_text
    assert re.search(r"\.text \{[^}]*white-space: pre-wrap", page_text)


def test_same_files_same_bytes(demo: Path, page_text: str, tmp_path: Path) -> None:
    settings, inputs = fake_run.write_all(tmp_path)
    assert (main(settings, inputs, tmp_path / "again") / "report.html").read_text() == page_text


def test_control_characters_do_not_break_the_page(tmp_path: Path) -> None:
    answers = {"only": {"text": "\x07", "finished": True, "gold": None, "reward": None}}
    row = {"prompt": [{"role": "user", "content": "\x00\x1b[31m"}], "answers": answers, "family": "", "language": ""}
    assert "\ufffd\ufffd[31m" in report_on(tmp_path, bare(only={}), [row]).text


def test_a_missing_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"results.json not found: {tmp_path / 'results.json'}")):
        main(ReportSettings(), ReportInputs(results=tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    _, inputs = fake_run.write_all(tmp_path)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        main(ReportSettings(), inputs.model_copy(update={"runs": {"x": tmp_path}}), tmp_path / "out")


def test_spans() -> None:
    assert span((0.67, 0.737)) == "67.0–73.7%"
    assert span((-0.5, 0.25), "{:.2f}".format) == "-0.50–0.25"
    assert span((-0.5, -0.25), fixed(2)) == "−0.50 … −0.25"
    assert span(None) == ""


# ---- samples


def sample(before: float, after: float, family: str = "sum") -> dict[str, Any]:
    answers = {"sft": {"text": "a", "gold": before}, "ppo": {"text": "b", "gold": after}}
    return {"prompt": [], "family": family, "language": "", "answers": answers}


TWO = Evaluation.of(bare(sft={"gold": 0.1}, ppo={"gold": 0.2}))


def test_samples_are_the_best_the_middle_and_the_worst() -> None:
    rows = [sample(0.5, 0.5), sample(0.9, 0.1), sample(0.1, 0.2), sample(0.0, 1.0), sample(0.3, 0.2)]
    (family,) = choose_samples(TWO, rows)
    assert [change for change, _ in family["shown"]] == pytest.approx([1.0, 0.0, -0.8])
    assert family["shown"][0][1] == rows[3]
    assert (family["prompts"], family["better"], family["worse"]) == (5, 2, 2)


def test_every_family_is_shown_and_small_ones_whole() -> None:
    rows = [sample(0.5, 0.6, "b"), sample(0.5, 0.6, "a"), sample(0.5, 0.4, "a")]
    assert [(f["name"], len(f["shown"])) for f in choose_samples(TWO, rows)] == [("a", 2), ("b", 1)]


# ---- the terminal


def printed(results: dict[str, Any], **options: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison_table(results, fake_run.INSTRUCT.labels, **options))
    return stream.getvalue()


def test_terminal_table_fits_80_columns_and_has_the_numbers() -> None:
    text = printed(fake_run.results())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    line = next(line for line in text.splitlines() if "PPO-ptx" in line)
    assert line.split() == ["PPO-ptx", "0.758", "68.8%", "93.4%", "0.53", "1.176", "3.0"]
    assert "65.4–72.2%" in text
    assert "by the judge on 520 held-out prompts" in " ".join(text.split())


def test_terminal_table_without_a_judge_or_by_family() -> None:
    text = " ".join(printed(fake_run.results(judge=False)).split())
    assert "by the reward model on 520" in text
    assert "score vs" not in text.split("Base")[0]
    by_family = printed(fake_run.results(), families=True)
    assert all(family in by_family for family in fake_run.FAMILIES)
