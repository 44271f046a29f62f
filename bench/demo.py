"""The demo of this checkout beside that of an older one, in turns: `python -m bench.demo OLDER [--rounds 3]`.

OLDER is a folder such as `git worktree add` makes. Each turn is a whole `tutelage demo` in a process of its own. Prints the seconds
of every step, this checkout's share of the older one's time, and both results; writes bench/results/demo.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import spread
from bench.machine import describe
from tutelage.files import write_atomic

HERE = Path(__file__).resolve().parent


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("older", type=Path, help="folder of another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "demo.json")
    parser.add_argument("--options", default="", help="for `tutelage demo`, in one word: '--seed 1'")
    options = parser.parse_args(words)
    sides = {"this": HERE.parent, "older": options.older.resolve()}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    about = describe()
    for number in range(options.rounds):
        for name, checkout in sides.items():
            turns[name].append(turn(checkout, shlex.split(options.options)))
            print(f"round {number + 1}, {name}: {turns[name][-1]['seconds']:.0f} s", flush=True)
    shares = [a["seconds"] / b["seconds"] for a, b in zip(turns["this"], turns["older"], strict=True)]
    print(f"\n{'step':12}" + "".join(f"{name:>10}" for name in sides))
    for step in turns["this"][0]["steps"]:
        middle = (spread([one["steps"].get(step, 0.0) for one in turns[name]]).median for name in sides)
        print(f"{step:12}" + "".join(f"{seconds:10.1f}" for seconds in middle))
    for name in sides:
        figures = turns[name][0]["gold"]
        print(f"{name}, the judge's score: " + ", ".join(f"{model} {gold:.3f}" for model, gold in figures.items()))
    found = spread(shares)
    print(f"this takes {found.median:.3f} [{found.low:.3f}, {found.high:.3f}] of the older one's time")
    result = {"date": time.strftime("%Y-%m-%d"), "machine": about, "share": found._asdict(), "turns": turns}
    write_atomic(options.out, (json.dumps(result, indent=1) + "\n").encode())
    print(options.out)


def turn(checkout: Path, options: Sequence[str]) -> dict[str, Any]:
    """One demo: seconds in all and of each step, and the judge's score of each model. CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "tutelage", "demo", "--out", str(out), *options]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        steps = {}
        for file in sorted(out.glob("*/sessions.jsonl"), key=lambda path: path.stat().st_mtime):
            events = map(json.loads, file.read_text().splitlines())
            steps[file.parent.name] = sum(event["seconds"] for event in events if event["event"] == "end")
        models = json.loads((out / "evaluate" / "results.json").read_text())["models"]
        return {"seconds": seconds, "steps": steps, "gold": {name: one["gold"] for name, one in models.items()}}


if __name__ == "__main__":
    main()
