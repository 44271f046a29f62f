"""The page of a claim: what the paper says, what was done here, the figures of each seed, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.reproduce.claim import Claim, read_claim, recipe_hash
from tutelage.reproduce.running import Found
from tutelage.settings import write_yaml


def page(
    name: str,
    claim: Claim,
    seeds: Sequence[int],
    found: Mapping[str, Found],
    took: Sequence[tuple[float, float]],
    table: Sequence[Sequence[str]] = (),
    model: str = "",
) -> str:
    """Markdown. ``took`` [seeds]: seconds of the claim's own steps, and of the demo's that it needs. ``model`` was asked.

    ``table``: the cells of the claim's table.
    """
    own, shared = (sum(part) / 60 for part in zip(*took, strict=True))
    lines = [
        f"# {name}: {claim.title}",
        "",
        f"Written by `tutelage reproduce {name}`; nothing here is copied by hand.",
        "",
        f"**The paper**: {claim.paper.strip()}",
        "",
        f"**Its claim**: {claim.claim.strip()}",
        "",
        f"**Here**: {claim.here.strip()}",
        "",
    ]
    if claim.table:
        heads = ["", *claim.table.columns, *(["seconds"] if claim.table.seconds else [])]
        lines += ["## Side by side", "", *_markdown(heads, table), ""]
        lines += ["Means over the seeds, with the standard deviation between them.", ""]
    for title, one in found.items():
        lines += [
            f"## {title[0].upper()}{title[1:]}: {one.verdict.word}",
            "",
            f"Expected: {one.contrast.says.strip()}",
            "",
        ]
        lines += [*_table(seeds, one), "", in_words(one), ""]
    lines += [
        "## How it was run",
        "",
        f"Seeds {', '.join(map(str, seeds))}. The steps of this claim took {own:.1f} minutes, those of the demo, which all claims "
        f"share, {shared:.0f}.",
    ]
    if claim.model:
        lines.append(f"`MODEL` was {model or claim.model}.")
    lines += ["Intervals are 95%, of the mean over seeds (Student's t) of the paired differences.", ""]
    return "\n".join([*lines, "```yaml", write_yaml({"steps": claim.steps}).rstrip(), "```", ""])


def index(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: every claim that was run, with its verdicts. Args: kept: claim -> what ``tutelage reproduce`` keeps of it."""
    said = (
        "Written by `tutelage reproduce`. A contrast is **reproduced** where the 95% interval of its mean difference over the "
        "seeds is above 0 and so is every seed, **opposite** where both are below, and **undecided** otherwise; the page says "
        "how small a difference could have been seen. Those with a star had to come out as the paper says."
    )
    rows = []
    for name, found in kept.items():
        claim = read_claim(name)
        older = "" if found.get("recipe") == recipe_hash(claim) else " (of an older recipe)"
        for i, (title, one) in enumerate(found["verdicts"].items()):
            star = " *" if title in claim.contrasts and claim.contrasts[title].must else ""
            interval = "" if one["low"] is None else f" [{one['low']:+.3f}, {one['high']:+.3f}]"
            first = "" if i else f"[{name}]({name}.md): {claim.title}"
            rows.append(
                [first, title + star, one["word"] + older, f"{one['mean']:+.3f}{interval}", str(len(found["seeds"]))]
            )
    heads = ["claim", "contrast", "verdict", "difference", "seeds"]
    return "\n".join(["# What papers claim, and what comes out here", "", said, "", *_markdown(heads, rows), ""])


def in_words(one: Found) -> str:
    """A contrast's verdict in a sentence."""
    v = one.verdict
    said = f"{v.word}: {v.mean:+.3f} [{v.low:+.3f}, {v.high:+.3f}]"
    if len(one.more) == 1:
        return f"undecided: {v.mean:+.3f}; one seed decides nothing."
    if v.word == "undecided":
        said += f"; a difference of {v.could_see:.3f} could have been seen"
    return said + "."


def _table(seeds: Sequence[int], one: Found) -> list[str]:
    less = bool(one.contrast.less)
    alike = _called(one.contrast.more) == _called(one.contrast.less)
    sides = [_called(side, steps=alike) for side in (one.contrast.more, one.contrast.less)]
    head = ["seed", sides[0], *([sides[1], "difference"] if less else [])]
    cells = [
        [str(seed), f"{a:.3f}", *([f"{b:.3f}", f"{a - b:+.3f}"] if less else [])]
        for seed, a, b in zip(seeds, one.more, one.less, strict=True)
    ]
    return _markdown(head, cells)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _called(figures: Sequence[str | float], *, steps: bool = False) -> str:
    """The keys of figures, with their steps where keys alone do not tell them apart."""
    named = [one.partition("/")[0] + ": " if steps and isinstance(one, str) else "" for one in figures]
    return ", ".join(
        f"{step}`{one.rpartition('#')[2]}`" if isinstance(one, str) else f"{one:g}"
        for step, one in zip(named, figures, strict=True)
    )
