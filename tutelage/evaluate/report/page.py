"""The step "report": report.html and its plots, from the results of an evaluation and the logs of training runs.

The columns of a run's metrics.jsonl decide what is shown of it. What was not measured is left out.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from tutelage.errors import UsageError
from tutelage.evaluate.report.drawing import Colour
from tutelage.evaluate.report.plots import all_plots
from tutelage.evaluate.report.view import Evaluation, choose_samples, fixed, percent, span
from tutelage.files import write_atomic
from tutelage.runs.folder import open_run
from tutelage.runs.state import Run
from tutelage.settings import Inputs, RunPath, Settings, flat


class ReportInputs(Inputs):
    """What is reported."""

    results: Path = Field(description="folder of an evaluation")
    runs: dict[str, RunPath] = Field({}, description="name -> run folder whose training curves are shown")


class ReportSettings(Settings):
    """What things are called."""

    name: str = Field("Report", description="title")
    labels: dict[str, str] = Field(
        {}, description="name of a model, run, reward model or rankings -> what it is called"
    )
    colours: dict[str, Colour] = Field({}, description="name -> colour; default: by its place in the order")
    notes: list[str] = Field([], description="sentences that the report quotes")
    seed: int | None = Field(None, description="seed of what is reported, to be shown")


def main(knobs: ReportSettings, inputs: ReportInputs, out: Path) -> Path:
    """Write report.html and plots/*.svg into ``out`` and return it. The same files give the same bytes.

    Raises UsageError if the evaluation is missing, RunFolderError for a folder that is not a run.
    """
    runs = {name: Run.read(path) for name, path in inputs.runs.items()}
    files = inputs.results / "results.json", inputs.results / "samples.jsonl"
    for file in files:
        if not file.exists():
            raise UsageError(f"report: {file.name} not found: {file}")
    with open_run(out, "report", knobs, inputs) as run:
        if run.finished:
            return out
        results, samples = (file.read_text(encoding="utf-8") for file in files)
        evaluation = Evaluation.of(json.loads(results), knobs.labels, knobs.colours, runs)
        plots = all_plots(evaluation, {name: run.metrics for name, run in runs.items()})
        for plot in plots:
            write_atomic(out / "plots" / f"{plot.name}.svg", plot.svg.encode())
        page = render(
            settings=knobs,
            evaluation=evaluation,
            samples=choose_samples(evaluation, [json.loads(row) for row in samples.split("\n") if row]),
            plots={plot.name: plot for plot in plots},
            curves=[plot.name for plot in plots if plot.name.startswith("training_")],
            runs={name: facts(run) for name, run in runs.items()},
        )
        write_atomic(out / "report.html", page.encode())
        run.finish({"models": len(evaluation.models), "runs": len(runs)})
    return out


def render(**content: Any) -> str:
    """The page, from templates/report.html."""
    import jinja2

    loader, strict = jinja2.PackageLoader("tutelage.evaluate.report"), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=strict)
    environment.trim_blocks = environment.lstrip_blocks = True
    formats = {"percent": percent, "span": span, "two": fixed(2), "three": fixed(3), "printable": printable}
    environment.filters |= formats
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


def printable(text: str) -> str:
    """Control characters, which a model may write and HTML cannot carry, become U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
