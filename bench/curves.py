"""tutelage alone, over growing sizes: time and memory against tokens, weights, K, answers, batch, context and examples.

    python -m bench.curves [--quick] [--curve NAME] [--out FOLDER] [--tables]

The points of a curve take turns like participants, each in a process of its own, whose peak memory is its own. Writes
bench/results/curves.json, a plot of each curve, and their table in README.md, which says where time or memory grows faster than in
proportion. For the number of examples that would be a fault; attention is quadratic in the context. Curves that are not measured
again stay in the file, each with its day and machine.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from bench import environments, figures, machine
from bench.__main__ import QUICK, README, RESULTS, between, merged, write
from bench.generate import tutelage as generate
from bench.pairs import Case, Pace, Side, measure
from bench.ppo import tutelage as ppo
from bench.prepare import Prepared
from bench.pretrain import tutelage as pretrain
from bench.reading import ROWS, read
from bench.reward import rankings
from bench.reward import tutelage as reward
from bench.rows import random_rows
from tutelage.evaluate.report.drawing import drawing, finish, new_figure
from tutelage.files import write_atomic

FASTER = 1.15
"""A power of growth above this is faster than in proportion, and more than noise."""
HEADERS = ("curve", "from", "to", "seconds", "MiB", "growth of time", "growth of memory")


@dataclass(frozen=True)
class Curve:
    """A piece of work at growing sizes."""

    name: str
    x: str
    points: Sequence[int]
    start: Callable[..., Any]
    settings: Callable[[Prepared, int], dict[str, Any]]
    """Of the work at a point."""


def of_model(prepared: Prepared, shape: str = "S", **changes: Any) -> dict[str, Any]:
    return {"model": prepared.model(shape, **changes), "vocab_size": 4096}


def of_size(prepared: Prepared, width: int) -> dict[str, Any]:
    heads: dict[str, Any] = {
        "hidden_size": width,
        "num_heads": width // 64,
        "intermediate_size": width * 8 // 3 // 8 * 8,
    }
    return of_model(prepared, **heads) | {"batch": 4, "sequence": 256}


def of_rankings(prepared: Prepared, answers: int) -> dict[str, Any]:
    rows = prepared.rows(f"rankings of {answers}", rankings(8, answers))
    return {"model": prepared.model("S"), "rows": rows, "batch": 8}


def of_answers(prepared: Prepared, longest: int) -> dict[str, Any]:
    rows = prepared.rows("prompts", [{"ids": ids} for ids in random_rows(256, 32, 4096)])
    work = {"model": prepared.model("S"), "reward_model": prepared.model("S", scalar=True), "rows": rows}
    return work | {"batch": 64, "longest": longest, "ends": False, "trunk": "separate"}


def of_context(prepared: Prepared, prompt: int) -> dict[str, Any]:
    return of_model(prepared, max_position_embeddings=8192) | {"batch": 1, "prompt": prompt, "tokens": 32}


def of_file(kind: str) -> Callable[[Prepared, int], dict[str, Any]]:
    def settings(prepared: Prepared, count: int) -> dict[str, Any]:
        file = prepared.folder / f"{count} {kind}.jsonl"
        with file.open("w") as opened:
            for number, asked in zip(range(count), cycle(prepared.world.files["demonstrations"])):
                user, answer = (message.text for message in asked.messages[-2:])
                opened.write(json.dumps(ROWS[kind](f"{user} {number}", answer)) + "\n")
        return {"model": prepared.model("S"), "kind": kind, "file": str(file)}

    return settings


CURVES = (
    Curve("pretraining step", "windows of 256", (1, 2, 4, 8, 16, 32), pretrain,
          lambda prepared, batch: of_model(prepared) | {"batch": batch, "sequence": 256}),
    Curve("pretraining step by size", "hidden size", (64, 128, 256, 512), pretrain, of_size),
    Curve("reward step", "K", (2, 3, 4, 6, 9), reward, of_rankings),
    Curve("PPO update", "longest answer", (16, 32, 64, 128), ppo, of_answers),
    Curve("generation", "batch", (1, 4, 16, 64), generate,
          lambda prepared, batch: of_model(prepared) | {"batch": batch, "prompt": 32, "tokens": 64}),
    Curve("generation after a prompt", "tokens of the prompt", (128, 512, 2048, 4096), generate, of_context),
    *(Curve(f"reading {kind}", "examples", (1000, 4000, 16000), read, of_file(kind)) for kind in ROWS),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the two smallest points, once; writes to {QUICK}")
    parser.add_argument("--curve", default="", help="only curves whose name matches this regular expression")
    parser.add_argument("--tables", action="store_true", help="write README.md and the plots from curves.json, no more")
    parser.add_argument("--out", type=Path, help="folder for curves.json and the plots")
    options = parser.parse_args()
    out = options.out or (QUICK if options.quick else RESULTS)
    if not options.tables:
        pace = Pace.quick() if options.quick else Pace(rounds=5, seconds=1.0)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            prepared = Prepared(Path(folder), quick=options.quick)
            chosen = [curve for curve in CURVES if re.search(options.curve, curve.name)]
            file, found = out / "curves.json", list[figures.Found]()
            out.mkdir(parents=True, exist_ok=True)
            kept = json.loads(file.read_text())["curves"] if file.exists() else []
            for curve in chosen:
                found.append(points_of(curve, prepared, pace))
                write(file, {"curves": merged(kept, found, "name")})  # at once: an hour's work could be lost
        print(table(found))
    curves = json.loads((out / "curves.json").read_text())["curves"]
    for curve in filter(complete, curves):
        write_atomic(out / plot_name(curve), plot(curve).encode())
    if out == RESULTS:
        write_atomic(README, between(README.read_text(), "curves", section(curves)).encode())


def points_of(curve: Curve, prepared: Prepared, pace: Pace) -> dict[str, Any]:
    """Seconds of the work and peak memory at every point."""
    print(curve.name, flush=True)
    xs = curve.points[: 2 if prepared.quick else None]
    sides = [Side(curve.x, str(x), curve.start, curve.settings(prepared, x)) for x in xs]
    found = measure(
        Case(curve.name, "a second", sides), pace, environments.FOLDER, lambda line: print(line, flush=True)
    )
    points = [
        {
            "x": x,
            "seconds": [turn["seconds"] / turn["times"] for turn in one["turns"]],
            "mib": one["turns"][-1]["peak_mib"],
        }
        for x, one in zip(xs, found, strict=True)
        if one["turns"]
    ]
    failed = {one["tuning"]: one["failed"] for one in found if "failed" in one}
    when = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "pace": asdict(pace)}
    return {"name": curve.name, "x": curve.x} | when | {"points": points, "failed": failed}


def growth(points: Sequence[figures.Found], value: Callable[[figures.Found], float]) -> float:
    """p where the value grows as x^p between the last two points, the only ones that speak of large sizes."""
    before, last = points[-2:]
    return log(value(last) / value(before)) / log(last["x"] / before["x"])


def complete(curve: figures.Found) -> bool:
    """Whether it has points to compare and to draw."""
    return len(curve["points"]) > 1


def plot_name(curve: figures.Found) -> str:
    return f"curve-{curve['name'].replace(' ', '-')}.svg"


def seconds_of(point: figures.Found) -> float:
    return median(point["seconds"])


def table(curves: Sequence[figures.Found]) -> str:
    """One line for each curve, in Markdown."""
    rows = [HEADERS, ("---",) * len(HEADERS)]
    for curve in curves:
        points = curve["points"]
        if not complete(curve):
            rows.append((curve["name"], f"failed: {next(iter(curve['failed'].values())).splitlines()[0]}", *[""] * 5))
            continue
        first, last = points[0], points[-1]
        powers = growth(points, seconds_of), growth(points, lambda point: point["mib"])
        shown = [f"x^{power:.2f}" + " **faster than in proportion**" * (power > FASTER) for power in powers]
        seconds = f"{seconds_of(first):.3g} to {seconds_of(last):.3g}"
        rows.append(
            (
                f"{curve['name']}, {curve['x']}",
                str(first["x"]),
                str(last["x"]),
                seconds,
                f"{first['mib']} to {last['mib']}",
                *shown,
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def section(curves: Sequence[figures.Found]) -> str:
    """The curves' part of README.md: a table of those that were measured on the same day and machine, and all plots."""
    tables: dict[str, list[figures.Found]] = {}
    for curve in curves:
        about = curve["machine"]
        where = f"{curve['date']}, {about['processor']}, {about['threads']} threads; {curve['pace']['rounds']} rounds."
        tables.setdefault(where, []).append(curve)
    parts = [f"{where}\n\n{table(measured)}" for where, measured in tables.items()]
    plots = [f"![{curve['name']}](results/{plot_name(curve)})\n" for curve in filter(complete, curves)]
    return "\n".join(parts + plots)


def plot(curve: figures.Found) -> str:
    """Time and memory of a curve as an SVG, on logarithmic axes, where a power is a straight line."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    points = curve["points"]
    xs = [point["x"] for point in points]
    with drawing():
        figure, (above, below) = new_figure(4, 4, (1, 1))
        for axes, what, value in ((above, "seconds", seconds_of), (below, "MiB", lambda point: point["mib"])):
            ys = [value(point) for point in points]
            axes.plot(xs, ys, "o-")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylim(min(ys) / 2.5, 2.5 * max(ys))  # what does not grow looks flat
            axes.set_ylabel(what)
            axes.xaxis.set_major_locator(FixedLocator(xs))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(lambda number, _: f"{number:,.6g}")
        below.set_xlabel(curve["x"])
        above.set_title(curve["name"])
        return finish(figure, curve["name"], curve["name"], f"time and memory of {curve['name']} by {curve['x']}").svg


if __name__ == "__main__":
    main()
