"""``python -m bench [WORK ...]``: measure beside peers and write bench/results and the tables of README.md; see there."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import environments, figures, machine
from bench.pairs import Case, Pace, measure
from bench.prepare import Prepared
from tutelage.files import write_atomic

WORKS = ("pretrain", "sft", "reward", "ppo", "generate", "serve", "evaluate")
"""Modules of this package; each has a TITLE and ``cases(prepared)``."""
HERE = Path(__file__).resolve().parent
README, RESULTS = HERE / "README.md", HERE / "results"
QUICK = HERE.parent / "runs" / "bench"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(WORKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help=f"2 short rounds, to see that all runs; writes to {QUICK}")
    parser.add_argument(
        "--case", default="", help="only cases whose name matches this; the others of the result file stay"
    )
    parser.add_argument("--rounds", type=int, help="turns of each side that count")
    parser.add_argument("--seconds", type=float, help="of a turn, at least")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct (`tutelage starter smollm2`)")
    parser.add_argument("--environments", type=Path, default=environments.FOLDER, help="of the peers")
    parser.add_argument("--out", type=Path, help="folder for the result files")
    parser.add_argument(
        "--tables", action="store_true", help="write README.md from the results that are there, no more"
    )
    options = parser.parse_args(words)
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"there is no {min(unknown)}; there are {', '.join(WORKS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # not without the participants
    out = options.out or (QUICK if options.quick else RESULTS)
    pace = Pace.quick() if options.quick else Pace()
    given = {name: value for name in ("rounds", "seconds") if (value := getattr(options, name)) is not None}
    pace = replace(pace, **given)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        prepared = Prepared(Path(folder), options.smollm2 and options.smollm2.resolve(), options.quick)
        for name in () if options.tables else options.works or WORKS:
            file, found = out / f"{name}.json", list[dict[str, Any]]()
            out.mkdir(parents=True, exist_ok=True)
            kept = json.loads(file.read_text())["cases"] if file.exists() else []
            title = {"title": import_module(f"bench.{name}").TITLE}
            for case in measured(name, prepared, pace, options.environments.resolve(), options.case):
                found.append(case)  # written at once: a case may take half an hour
                write(file, title | {"cases": merged(kept, found)})
            if not options.case:
                write(file, title | {"cases": found})  # without cases that are no more
            print(figures.page([title | {"cases": found}]))
    if out == RESULTS:
        write_atomic(README, with_tables(README.read_text(), read_results(RESULTS)).encode())


def measured(name: str, prepared: Prepared, pace: Pace, folder: Path, chosen: str = "") -> Iterator[dict[str, Any]]:
    """Measure one piece of work; what its result file holds of each case."""
    work = import_module(f"bench.{name}")
    cases: list[Case] = [case for case in work.cases(prepared) if re.search(chosen, case.name)]
    for case in cases:
        print(f"{name}: {case.name}" + f" is left out: {case.left_out}" * bool(case.left_out), flush=True)
        sides = [] if case.left_out else measure(case, pace, folder, lambda line: print(line, flush=True))
        when = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "pace": asdict(pace)}
        about = {"case": case.name, "unit": case.unit, "further": dict(case.further), "left_out": case.left_out}
        settings = {
            key: value for key, value in case.settings.items() if not str(value).startswith(str(prepared.folder))
        }
        yield about | when | {"settings": settings, "sides": sides}


def write(file: Path, found: dict[str, Any]) -> None:
    write_atomic(file, (json.dumps(found, indent=1) + "\n").encode())


def merged(kept: Sequence[figures.Found], new: Sequence[figures.Found], name: str = "case") -> list[figures.Found]:
    """The cases of an earlier run with those that were measured again in their places, and further ones at the end."""
    return list({case[name]: case for case in (*kept, *new)}.values())


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The result files that are there, in the order of WORKS."""
    return [json.loads(path.read_text()) for name in WORKS if (path := folder / f"{name}.json").exists()]


def with_tables(readme: str, results: Sequence[figures.Found]) -> str:
    """The page with the tables of the results."""
    return between(readme, "tables", figures.page(results))


def between(page: str, mark: str, text: str) -> str:
    """The page with ``text`` in place of all that stands between two marks."""
    first, last = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    return page[: page.index(first) + len(first)] + text + page[page.index(last) :]


if __name__ == "__main__":
    main()
