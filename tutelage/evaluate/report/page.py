"""The step "report": a page in each language with its plots, from the results of an evaluation and the logs of training runs.

The columns of a run's metrics.jsonl decide what is shown of it. What was not measured is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tutelage.errors import UsageError
from tutelage.evaluate.report.drawing import Colour
from tutelage.evaluate.report.monitors import findings
from tutelage.evaluate.report.plots import all_plots, kind_of
from tutelage.evaluate.report.preference_plots import preference_plots
from tutelage.evaluate.report.preferences import Preferences, names_in
from tutelage.evaluate.report.view import Evaluation, choose_samples, fixed, percent, span, update_figures
from tutelage.evaluate.report.words import LANGUAGES, Language, Words
from tutelage.evaluate.seeds import spreads
from tutelage.files import write_atomic
from tutelage.runs.folder import open_run
from tutelage.runs.state import Run
from tutelage.settings import Inputs, RunPath, Settings, flat, nearest, read_yaml

if TYPE_CHECKING:
    from markupsafe import Markup


class ReportInputs(Inputs):
    """What is reported."""

    results: Path = Field(description="folder of an evaluation")
    runs: dict[str, RunPath] = Field({}, description="name -> run folder whose training curves are shown")
    preferences: Path | None = Field(None, description="folder of a step preferences, whose tables and plots are shown")
    seeds: dict[str, Path] = Field(
        {}, description="seed -> evaluation of the same recipe with that seed, for the spread"
    )


class Translation(Settings):
    """What is called otherwise on the Chinese page."""

    name: str | None = Field(None, description="title of the Chinese page")
    labels: dict[str, str] = Field({}, description="name -> what it is called on the Chinese page")
    notes: list[str] = Field([], description="sentences that the Chinese page quotes")


class ReportSettings(Settings):
    """What things are called."""

    name: str = Field("Report", description="title")
    models: tuple[str, ...] = Field(
        (), description="models to show, in this order; default: all, in the evaluation's order"
    )
    labels: dict[str, str] = Field(
        {}, description="name of a model, run, reward model or rankings -> what it is called"
    )
    colours: dict[str, Colour] = Field({}, description="name -> colour; default: by its place in the order")
    notes: list[str] = Field([], description="sentences that the report quotes")
    seed: int | None = Field(None, description="seed of what is reported, to be shown")
    zh: Translation = Translation()

    def in_language(self, language: Language) -> ReportSettings:
        """The settings of the page in this language; what is not translated stays."""
        if language == "en":
            return self
        here = self.zh
        changed = {
            "name": here.name or self.name,
            "labels": self.labels | here.labels,
            "notes": here.notes or self.notes,
        }
        return self.model_copy(update=changed)


def main(knobs: ReportSettings, inputs: ReportInputs, out: Path) -> Path:
    """Write report.html, report.zh.html and plots/*.svg into ``out`` and return it. The same files give the same bytes.

    Raises UsageError if an evaluation is missing or ``seeds`` are of other models, RunFolderError for a folder that is not a run.
    """
    runs = {name: Run.read(path) for name, path in inputs.runs.items()}
    others = [folder / "results.json" for folder in inputs.seeds.values()]
    measured = [inputs.preferences / "preferences.json"] if inputs.preferences else []
    for file in (inputs.results / "results.json", inputs.results / "samples.jsonl", *others, *measured):
        if not file.exists():
            raise UsageError(f"report: {file.name} not found: {file}")
    with open_run(out, "report", knobs, inputs) as run:
        if run.finished:
            return out
        results = ordered(read_results(inputs.results), knobs.models)
        rows = (inputs.results / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        samples = [json.loads(row) for row in rows if row]
        over_seeds = spreads({"results": results} | {name: read_results(path) for name, path in inputs.seeds.items()})
        found = json.loads(measured[0].read_text(encoding="utf-8")) if measured else {}
        for language in LANGUAGES:
            settings, say = knobs.in_language(language), Words(language)
            evaluation = Evaluation.of(results, settings.labels, settings.colours, [*runs, *names_in(found)], say)
            preferences = Preferences(found, evaluation.looks, say)
            plots = all_plots(evaluation, {name: run.metrics for name, run in runs.items()})
            plots += preference_plots(preferences)
            for plot in plots:
                write_atomic(out / "plots" / say.file(f"{plot.name}.svg"), plot.svg.encode())
            page = render(
                say=say,
                others=[other for other in map(Words, LANGUAGES) if other != say],
                settings=settings,
                evaluation=evaluation,
                preferences=preferences,
                seeds={"count": 1 + len(inputs.seeds), "models": over_seeds},
                samples=choose_samples(evaluation, samples),
                plots={plot.name: plot for plot in plots},
                curves=[plot.name for plot in plots if plot.name.startswith("training_")],
                runs={name: facts(run) for name, run in runs.items()},
                findings={
                    name: findings(run.metrics, kl_budget(run))
                    for name, run in runs.items()
                    if kind_of(run.metrics) == "rl"
                },
                updates={
                    name: update_figures(run.metrics) for name, run in runs.items() if kind_of(run.metrics) == "rl"
                },
            )
            write_atomic(out / say.file("report.html"), page.encode())
        run.finish({"models": len(results["models"]), "runs": len(runs)})
    return out


def read_results(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def ordered(results: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Results with these models only, in this order; with all of them if ``names`` is empty. UsageError for an unknown name."""
    models = results["models"]
    for name in names:
        if name not in models:
            raise UsageError(f"report: {name!r} is not one of the models{nearest(name, list(models))}")
    shown = {name: models[name] for name in names or models}
    return results | {"models": shown, "against": [name for name in results["against"] if name in shown]}


def render(**content: Any) -> str:
    """The page, from templates/report.html."""
    import jinja2

    loader, strict = jinja2.PackageLoader("tutelage.evaluate.report"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=strict)
    environment.trim_blocks = environment.lstrip_blocks = True
    numbers = {"percent": percent, "two": fixed(2), "three": fixed(3), "four": fixed(4)}
    environment.filters |= numbers | {"span": span, "with_code": with_code}
    environment.globals |= numbers
    return environment.get_template("report.html").render(content)


def facts(run: Run) -> dict[str, Any]:
    """What a run's folder says of how it was made; a part that is not there is 0 or empty."""
    seconds = sum(row.get("seconds", 0.0) for row in run.sessions)
    return {
        "seconds": seconds,
        "time": str(timedelta(seconds=round(seconds))),
        "memory": max((row.get("peak_rss_gib", 0.0) for row in run.sessions), default=0.0),
        "steps": int(run.metrics[-1]["step"]) if run.metrics else 0,
        "device": next((row["device"] for row in run.sessions if "device" in row), ""),
        "closing": flat(run.closing or {}),
        "recipe": (run.path / "recipe.yaml").read_text(encoding="utf-8"),
    }


def kl_budget(run: Run) -> float:
    """The KL budget that an RL run was made with; 0 for none [nats per answer]."""
    kl = read_yaml(run.path / "recipe.yaml").get("kl")
    return float(kl.get("budget") or 0) if isinstance(kl, dict) else 0.0


def with_code(text: str) -> Markup:
    """Text as HTML: ```fenced``` and `quoted` code becomes <code>, without its backticks; control characters become U+FFFD."""
    from markupsafe import Markup, escape

    # Models write control characters, and HTML cannot carry them.
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
    html = Markup()
    for i, part in enumerate(
        re.split(r"\n?```(?:[\w+-]*\n)?(.*?)\n?```\n?|(?<!`)`([^`\n]+)`(?!`)", text, flags=re.DOTALL)
    ):
        if part is not None:
            code = (None, ' class="block"', "")[i % 3]
            html += escape(part) if code is None else Markup("<code{}>{}</code>").format(Markup(code), part)
    return html
