"""The page of a claim: what the paper says, what was done here, the figures of each seed, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage.reproduce.claim import Claim
from tutelage.reproduce.running import Found
from tutelage.settings import write_yaml


def page(
    name: str,
    claim: Claim,
    seeds: Sequence[int],
    found: Mapping[str, Found],
    took: Sequence[tuple[float, float]],
    model: str = "",
) -> str:
    """Markdown. ``took`` [seeds]: seconds of the claim's own steps, and of the demo's that it needs. ``model`` was asked."""
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
    for title, one in found.items():
        lines += [f"## {title.capitalize()}: {one.verdict.word}", "", f"Expected: {one.contrast.says.strip()}", ""]
        lines += [*_table(seeds, one), "", in_words(one), ""]
    lines += [
        "## How it was run",
        "",
        f"Seeds {', '.join(map(str, seeds))}; {own:.0f} minutes for the steps of this claim",
    ]
    lines[-1] += f", {shared:.0f} for those of the demo, which all claims share."
    if claim.model:
        lines.append(f"`MODEL` was {model or claim.model}.")
    lines += ["Intervals are 95%, of the mean over seeds (Student's t) of the paired differences.", ""]
    return "\n".join([*lines, "```yaml", write_yaml({"steps": claim.steps}).rstrip(), "```", ""])


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
    head = ["seed", _called(one.contrast.more), *([_called(one.contrast.less), "difference"] if less else [])]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for seed, a, b in zip(seeds, one.more, one.less, strict=True):
        cells = [str(seed), f"{a:.3f}", *([f"{b:.3f}", f"{a - b:+.3f}"] if less else [])]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _called(figures: Sequence[str]) -> str:
    return ", ".join(f"`{place.rpartition('#')[2]}`" for place in figures)
