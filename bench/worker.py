"""A participant's process: ``python -m bench.worker bench.generate:transformers '{"model": ...}'``.

It is started in the participant's own environment, so it imports nothing but the standard library and what the participant
imports. Answers are lines of JSON on the standard output that the process was given; what libraries print goes to stderr.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pkgutil import resolve_name

Measures = dict[str, float]
Turn = Callable[[], float | tuple[float, Measures]]
"""Does the work once and returns how much it was (tokens, samples ...), perhaps with further figures of it."""

PACKAGES = ("tutelage", "torch", "transformers", "trl", "lm-eval", "xllamacpp")


def main() -> None:
    """Start the participant, then take a turn for every line that is read: the seconds that it should last."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(what: dict[str, object]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    turn: Turn = resolve_name(sys.argv[1])(**json.loads(sys.argv[2]))
    answer({"versions": versions()})
    for line in sys.stdin:
        answer(take(turn, float(line)))


def take(turn: Turn, seconds: float) -> dict[str, object]:
    """Repeat the work until ``seconds`` have passed; the amount, how often, the time, medians of further figures, peak memory."""
    amount, times, further, began = 0.0, 0, list[Measures](), time.perf_counter()
    while True:
        done, times = turn(), times + 1
        amount += done[0] if isinstance(done, tuple) else done
        further += [done[1]] if isinstance(done, tuple) else []
        if (passed := time.perf_counter() - began) >= seconds:
            break
    middle = {name: sorted(one[name] for one in further)[len(further) // 2] for name in (further or [{}])[0]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"amount": amount, "times": times, "seconds": passed, "further": middle, "peak_mib": round(peak)}


def versions() -> dict[str, str]:
    """Of Python and of those of PACKAGES that this environment has."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
