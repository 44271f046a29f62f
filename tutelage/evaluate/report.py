"""The report of a finished run: one HTML page that needs nothing but itself, and the table of stages for the terminal.

The page is inline CSS and SVG, without scripts and without requests, in light and dark, for screens of any width and for paper.
What a run did not measure is left out, and the page says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.evaluate import report_words as words
from tutelage.evaluate.plots import family_scores, run_plots, save_plots
from tutelage.evaluate.run_output import (
    TRAINING_NAMES,
    Row,
    RunOutput,
    column,
    final_stage,
    interval,
    number,
    ordered_stages,
    read_run,
    stage_name,
)
from tutelage.evaluate.side_by_side import choose_samples
from tutelage.evaluate.svg import palette_css, stage_variable
from tutelage.files import write_atomic

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["save_plots", "stage_table", "write_report"]


@dataclass(frozen=True)
class Column:
    """A column of the table of stages."""

    key: str
    title: str
    short: str
    unit: str
    show: Callable[[float], str]
    interval: str = ""


COLUMNS = (
    Column("gold", "Judge’s score", "score", "0 to 1", words.three, "gold_ci"),
    Column("win_rate_vs_sft", "Preferred to SFT", "vs SFT", "ties split", words.percent, "win_rate_ci"),
    Column("win_rate_vs_base", "Preferred to base", "vs base", "ties split", words.percent, "win_rate_vs_base_ci"),
    Column(
        "clear_win_rate_vs_sft", "Clearly, to SFT", "", "trifles tie too", words.percent, "clear_win_rate_vs_sft_ci"
    ),
    Column(
        "clear_win_rate_vs_base", "Clearly, to base", "", "trifles tie too", words.percent, "clear_win_rate_vs_base_ci"
    ),
    Column("reward", "Reward model", "reward", "mean score", words.two),
    Column("bits_per_byte", "Bits per byte", "bits/byte", "held-out text", words.three),
    Column("kl", "KL to SFT", "KL", "nats an answer", "{:.1f}".format),
    Column("length", "Length", "", "tokens an answer", "{:.1f}".format),
    Column("finished", "Finished", "", "share of answers", words.percent),
)


@dataclass(frozen=True)
class Cell:
    """A number of a table: as shown, in full, what stands under it, and how strongly its background is tinted (0 to 1)."""

    text: str
    value: float | None = None
    under: str = ""
    heat: float | None = None


@dataclass(frozen=True)
class Line:
    """A line of a table: its name, the stage whose colour it bears, its cells."""

    name: str
    stage: str
    cells: list[Cell]


@dataclass(frozen=True)
class Grid:
    """A table: column titles with the small print under each, and lines."""

    first: str
    titles: list[tuple[str, str]]
    lines: list[Line]


NOTHING = Cell("–")
LANGUAGES = {"en": "English", "zh": "Chinese"}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run, and return its path.

    The same files give the same bytes. Raises UsageError if results.json is missing or damaged, DataError for a bad row in
    samples.jsonl or a metrics.jsonl.
    """
    import jinja2

    run = read_run(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tutelage.evaluate"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(report_context(run))
    path = folder / "report.html"
    write_atomic(path, page.encode())
    return path


def stage_table(results: Row) -> Table:
    """The table of stages for a terminal of 80 columns: values, and under them their 95% intervals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    prompts = number(results, "prompts")
    caption = f"score and preferences by {words.judged_by(results)}"
    caption += f" on {prompts:.0f} held-out prompts" if prompts else ""
    caption += ", ties split; in the second line 95% intervals; KL to SFT in nats an answer"
    if clear := words.clear_preferences(results):
        caption += f"\n{clear}"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    shown = [c for c in _measured(results) if c.short]
    table.add_column("stage")
    for c in shown:
        table.add_column(c.short, justify="right")
    for line in stage_grid(results, shown).lines:
        cells = [Text(cell.text + (f"\n{cell.under}" if cell.under else "")) for cell in line.cells]
        table.add_row(line.name, *cells)
    return table


def report_context(run: RunOutput) -> dict[str, Any]:
    """All that the template shows, worked out."""
    results, final = run.results, final_stage(run.results)
    light, dark = palette_css()
    drawn = {plot.name: plot for plot in run_plots(run)}
    figures = {name: {"title": p.title, "svg": p.svg(themed=True)} for name, p in drawn.items()}
    curves = [name for name in figures if name.startswith("training_")]
    rl = [name for name in curves if name.startswith("training_ppo")]
    supervised = [name for name in curves if name not in rl]
    baseline = "sft" if "sft" in run.stages else next(iter(run.stages))
    families = choose_samples(run.samples, final, baseline)
    context = {
        "title": str(results.get("name") or run.folder.resolve().name),
        "light": light,
        "dark": dark,
        "variable": stage_variable,
        "subtitle": subtitle(results),
        "headline": words.headline(results),
        "verdicts": words.verdicts(results),
        "key_figures": key_figures(results),
        "notes": [str(note) for note in results.get("notes") or []],
        "judge": words.judged_by(results),
        "stages": stage_grid(results, _measured(results)),
        "families": group_grid(results, "families"),
        "family_size": family_size(results),
        "languages": group_grid(results, "languages"),
        "final": stage_name(final),
        "baseline": stage_name(baseline),
        "bits": bits_grid(results),
        "tax": words.tax_sentences(results),
        "reward_model": words.reward_model_sentences(results.get("reward_model") or {}),
        "overoptimisation": words.overoptimisation_sentences(run),
        "figures": figures,
        "training": [names for names in (supervised, rl) if names],
        "samples": families,
        "made": made(run),
        "timings": timings_grid(results),
        "recipe": run.recipe,
    }
    return context | {"absent": absent(context)}


def absent(context: dict[str, Any]) -> list[str]:
    """A plain sentence for each part that the run has no numbers for."""
    figures = context["figures"]
    parts = (
        ("score" in figures, "The judge’s scores: no judge knows the right answers to these prompts."),
        ("win_rate" in figures, "Win rates: no two stages were compared."),
        (context["families"], "Results by task family: the run has no scores by family."),
        (
            context["bits"] or context["tax"],
            "The alignment tax: neither bits per byte nor accuracy by family was measured.",
        ),
        (context["reward_model"], "The reward model: its accuracy was not measured."),
        ("overoptimisation" in figures, "Over-optimisation: there is no log of a PPO run with rewards and KL."),
        (context["training"], "Training curves: there are no metrics.jsonl files."),
        (context["samples"], "Samples: there is no samples.jsonl."),
        (context["recipe"], "The recipe: there is no recipe.yaml."),
    )
    return [sentence for there, sentence in parts if not there]


def stage_grid(results: Row, columns: list[Column]) -> Grid:
    """The table of stages."""
    lines = []
    for key, stage in ordered_stages(results).items():
        cells = []
        for c in columns:
            value, ends = number(stage, c.key), interval(stage, c.interval)
            against_itself = c.key.endswith(f"win_rate_vs_{key}")
            if value is None or against_itself:
                cells.append(NOTHING)
            else:
                cells.append(Cell(c.show(value), value, words.span(ends, c.show) if ends else ""))
        lines.append(Line(stage_name(key), key, cells))
    return Grid("Stage", [(c.title, c.unit) for c in columns], lines)


def group_grid(results: Row, by: str) -> Grid | None:
    """A measure by family or language and stage, and its change from SFT to the last stage, largest gain first."""
    stages, final = ordered_stages(results), final_stage(results)
    for measure in ("gold", "win_rate_vs_sft"):
        scores = {key: family_scores(stage, measure, by) for key, stage in stages.items()}
        scores = {key: values for key, values in scores.items() if values}
        if scores:
            break
    else:
        return None
    names = sorted({name for values in scores.values() for name in values})
    before, after = scores.get("sft", {}), scores.get(final, {})
    change = {n: after[n] - before[n] for n in names if n in before and n in after} if final != "sft" else {}
    names.sort(key=lambda n: -change.get(n, float("-inf")))
    low = min(0.0, *(v for values in scores.values() for v in values.values()))
    high = max(1.0, *(v for values in scores.values() for v in values.values()))
    lines = []
    for name in names:
        sizes = [number((stage.get(by) or {}).get(name, {}), "n") for stage in stages.values()]
        n = next((size for size in sizes if size is not None), None)
        cells = [Cell(f"{n:.0f}", n) if n is not None else NOTHING]
        for values in scores.values():
            value = values.get(name)
            cells.append(NOTHING if value is None else Cell(f"{value:.2f}", value, heat=(value - low) / (high - low)))
        if change:
            cells.append(Cell(f"{change[name]:+.2f}".replace("-", "−"), change[name]) if name in change else NOTHING)
        lines.append(Line(LANGUAGES.get(name, name.replace("_", " ")), "", cells))
    titles = [("Prompts", "")] + [(stage_name(key), "") for key in scores]
    titles += [("Change", f"SFT to {stage_name(final)}")] if change else []
    return Grid("Family" if by == "families" else "Language", titles, lines)


def bits_grid(results: Row) -> Grid | None:
    """Bits per byte of held-out text: the stages, and compressors where they were measured."""
    entries = [(stage_name(key), key, number(stage, "bits_per_byte")) for key, stage in ordered_stages(results).items()]
    entries = [entry for entry in entries if entry[1] != "base_few_shot"]  # the same weights as base
    compression = results.get("compression") or {}
    entries += [(name, "", number(compression, name)) for name in compression]
    if all(value is None for *_, value in entries):
        return None
    base = next((value for _, key, value in entries if key == "base"), None)
    lines = []
    for name, key, value in entries:
        if value is not None:
            against = NOTHING if base is None or key == "base" else Cell(f"{value / base - 1:+.1%}".replace("-", "−"))
            lines.append(Line(name, key, [Cell(words.three(value), value), against]))
    return Grid("Model", [("Bits per byte", "lower is better"), ("Against base", "")], lines)


def timings_grid(results: Row) -> Grid | None:
    """Seconds a step of the run, and their share."""
    timings = results.get("timings") or {key: stage.get("seconds") for key, stage in ordered_stages(results).items()}
    seconds = {name: number(timings, name) for name in timings}
    known = {name: value for name, value in seconds.items() if value is not None}
    total = sum(known.values())
    if not total:
        return None
    lines = [
        Line(
            TRAINING_NAMES.get(name) or stage_name(name),
            "",
            [Cell(words.duration(value), value), Cell(f"{value / total:.0%}")],
        )
        for name, value in known.items()
    ]
    return Grid("Step", [("Time", ""), ("Share", "")], lines)


def family_size(results: Row) -> str:
    """``"24 to 33"``: how many prompts a family has."""
    families = (stage.get("families") or {} for stage in ordered_stages(results).values())
    sizes = [n for members in families for entry in members.values() if (n := number(entry, "n")) is not None]
    if not sizes:
        return ""
    return f"{min(sizes):.0f}" if min(sizes) == max(sizes) else f"{min(sizes):.0f} to {max(sizes):.0f}"


def key_figures(results: Row) -> list[dict[str, str]]:
    """The few numbers at the top: what, how much, and the interval or what to hold it against."""
    key = final_stage(results)
    stage, model = ordered_stages(results)[key], results.get("reward_model") or {}
    figures = []
    for label, row, name, ends in (
        (f"{stage_name(key)} preferred to SFT", stage if key != "sft" else {}, "win_rate_vs_sft", "win_rate_ci"),
        (
            f"{stage_name(key)} preferred to base",
            stage if key != "base" else {},
            "win_rate_vs_base",
            "win_rate_vs_base_ci",
        ),
        ("Reward model’s accuracy", model, "accuracy", "accuracy_ci"),
    ):
        value, around = number(row, name), interval(row, ends)
        if value is not None:
            under = f"95% interval {words.span(around)}" if around else ""
            best = number(model, "best_possible_accuracy")
            if name == "accuracy" and best:
                under += f"; best possible {words.percent(best)}"
            figures.append({"label": label, "value": words.percent(value), "under": under})
    seconds, memory = number(results, "seconds"), number(results, "peak_rss_gib")
    if seconds is not None:
        under = f"at most {memory:.2f} GiB of memory" if memory is not None else ""
        figures.append({"label": "Time of the whole run", "value": words.duration(seconds), "under": under})
    return figures


def subtitle(results: Row) -> str:
    """Prompts, model size, device and seed in a line."""
    parts = []
    parameters = number(results.get("model") or {}, "parameters")
    if parameters:
        parts.append(f"{parameters / 1e6:.1f} M parameters" if parameters >= 1e5 else f"{parameters:,.0f} parameters")
    if (prompts := number(results, "prompts")) is not None:
        parts.append(f"{prompts:,.0f} held-out prompts")
    parts += [f"on {results['device']}"] if results.get("device") else []
    parts += [f"seed {results['seed']}"] if results.get("seed") is not None else []
    return " · ".join(parts)


def made(run: RunOutput) -> list[tuple[str, str]]:
    """What the run was made of: counts of data, the model, the speed of pretraining."""
    rows = []
    for part in ("model", "data"):
        for name, value in (run.results.get(part) or {}).items():
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
            rows.append((f"{name.replace('_', ' ')}", shown))
    _, rates = column(run.metrics.get("pretrain", []), "step", "tokens_per_second")
    if rates:
        rows.append(("pretraining, tokens per second", f"{sorted(rates)[len(rates) // 2]:,.0f} (median)"))
    return rows


def _measured(results: Row) -> list[Column]:
    stages = ordered_stages(results).items()
    return [
        c
        for c in COLUMNS
        if any(number(s, c.key) is not None and not c.key.endswith(f"win_rate_vs_{k}") for k, s in stages)
    ]
