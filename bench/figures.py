"""From turns to ratios, and from result files to the tables of README.md. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

OURS = "tutelage"
QUANTISED = " quantised"
"""Ends the names of peers that compute with rounded weights. They are held against ours that do."""
HEADERS = (
    "work",
    "measure",
    "tutelage",
    "best tuned",
    "peer",
    "as shipped",
    "best tuned",
    "ratio",
    "ratio, both tuned",
)

Found = Mapping[str, Any]
"""What a result file holds of a side, a case or a whole piece of work."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value (linear interpolation, numpy's and R's default)."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def values_of(side: Found, measure: str = "") -> list[float]:
    """A measure in every counted turn: amount per second, or a further figure by its name. Empty for a side that failed."""
    return [turn["further"][measure] if measure else turn["amount"] / turn["seconds"] for turn in side["turns"]]


def ratio(ours: Found, theirs: Found, measure: str = "") -> Spread | None:
    """How many times better ours is, round by round: rates are ours / theirs; further figures, where less is better, theirs / ours.

    None where one of them failed.
    """
    pairs = list(zip(values_of(ours, measure), values_of(theirs, measure), strict=False))
    return spread([b / a if measure else a / b for a, b in pairs]) if pairs else None


def best(sides: Sequence[Found], measure: str = "") -> Found:
    """The tuning with the best median; the first where all have failed."""
    running = [side for side in sides if side["turns"]]
    if not running:
        return sides[0]
    choose = min if measure else max
    return choose(running, key=lambda side: spread(values_of(side, measure)).median)


def lines(case: Found) -> list[tuple[str, ...]]:
    """The table's lines of one case: one for each measure and peer."""
    if case["left_out"]:
        return [(case["case"], "", "", "", f"left out: {case['left_out']}", *[""] * 4)]
    peers: dict[str, list[Found]] = {}
    for side in case["sides"]:
        peers.setdefault(side["peer"], []).append(side)
    plain, rounded = peers.pop(OURS), peers.pop(OURS + QUANTISED, None)
    found: list[tuple[str, ...]] = []
    for measure, unit in {"": case["unit"], **case["further"]}.items():
        for peer, sides in peers.items():
            ours = rounded if rounded and peer.endswith(QUANTISED) else plain
            both = (*_both(ours, measure), peer, *_both(sides, measure), *_ratios(ours, sides, measure))
            found.append((case["case"], unit, *both))
    return found


def _both(sides: Sequence[Found], measure: str) -> tuple[str, str]:
    """As shipped, and the best tuning with its name, if there is another."""
    if not any(side["turns"] for side in sides):
        return f"failed: {sides[0]['failed'].splitlines()[0]}", ""
    first, fastest = sides[0], best(sides, measure)
    shipped = _number(spread(values_of(first, measure)).median) if first["turns"] else "failed"
    if fastest is first:
        return shipped, "as shipped" if len(sides) > 1 else ""
    return shipped, f"{_number(spread(values_of(fastest, measure)).median)} ({fastest['tuning']})"


def _ratios(ours: Sequence[Found], theirs: Sequence[Found], measure: str) -> tuple[str, str]:
    shipped = ratio(ours[0], theirs[0], measure)
    tuned = ratio(best(ours, measure), best(theirs, measure), measure)
    return tuple(f"{r.median:.2f} [{r.low:.2f}, {r.high:.2f}]" if r else "" for r in (shipped, tuned))  # type: ignore[return-value]


def _number(value: float) -> str:
    """Three digits at least, without a false promise of more than four."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def page(results: Sequence[Found]) -> str:
    """All tables in Markdown, each with the machine and the versions that it is from."""
    return "\n".join(_section(result) for result in results)


def _section(result: Found) -> str:
    rows = [line for case in result["cases"] for line in lines(case)]
    together: dict[str, list[Found]] = {}
    for case in result["cases"]:
        together.setdefault(_measured(case), []).append(case)
    said = [
        f"{', '.join(case['case'] for case in cases)}: {_about(when, cases)}"
        if len(together) > 1
        else _about(when, cases)
        for when, cases in together.items()
    ]
    table = [HEADERS, ("---",) * len(HEADERS), *rows]
    markdown = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in table]
    return "\n".join([f"### {result['title']}", "", *(line for one in said for line in (one, "")), *markdown, ""])


def _measured(case: Found) -> str:
    """When and where."""
    machine, pace = case["machine"], case["pace"]
    flags = ", ".join(machine["flags"]) or "none of the flags looked for"
    size = f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gib']} GiB"
    rounds = f"{pace['rounds']} rounds, turns of {pace['seconds']:g} s"
    return f"{case['date']}, {machine['processor']}, {size} ({flags}); {rounds}"


def _about(when: str, cases: Sequence[Found]) -> str:
    """One line on when, where and with what."""
    sides = [side for case in cases for side in case["sides"]]
    speeds = sorted(turn["speed"] for side in sides for turn in side["turns"])
    pieces = [when]
    if speeds:
        low, middle, high = (speeds[round(share * (len(speeds) - 1))] for share in (0, 0.5, 1))
        pieces.append(f"a matrix product between turns ran at {low:.0f} to {high:.0f} GFLOP/s, median {middle:.0f}")
    found: dict[str, set[str]] = {}
    for side in sides:
        for name, version in side.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    pieces.append(", ".join(f"{name} {' and '.join(sorted(found[name]))}" for name in sorted(found)))
    return "; ".join(piece for piece in pieces if piece) + "."
