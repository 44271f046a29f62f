"""`tutelage reproduce`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tutelage.errors import UsageError
from tutelage.files import write_atomic
from tutelage.reproduce.claim import Claim, Given, names, read_claim, recipe_hash, recipe_of
from tutelage.reproduce.verdict import Verdict


def reproduce(
    name: Annotated[str | None, Field(description="claim to reproduce; none: list them with their verdicts")] = None,
    *,
    seeds: Annotated[tuple[int, ...], Field(description="seeds; may be given several times")] = (0, 1, 2),
    out: Annotated[Path, Field(description="folder of the runs, one per seed for all claims")] = Path("runs/reproduce"),
    pages: Annotated[
        Path | None, Field(description="folder of the pages, their verdicts and the list of all; none: --out")
    ] = None,
    data: Annotated[Path | None, Field(description="folder of real data, for the claims about it")] = None,
    model: Annotated[
        str, Field(description="folder or hub name to ask instead of the claim's model, where it has one")
    ] = "",
) -> str:
    """Hold a paper's claim against what happens here: three seeds, a verdict, a page."""
    if name is None:
        return "\n".join(_list(pages or out))
    if len(set(seeds)) != len(seeds):
        raise UsageError("a seed is given twice")
    claim = read_claim(name)
    from tutelage.reproduce.page import in_words, index, page
    from tutelage.reproduce.running import reproduce as run
    from tutelage.reproduce.running import seconds_of, tabled

    print(f"{name}: {claim.title}\n{claim.paper.strip()}", flush=True)
    for title, contrast in claim.contrasts.items():
        print(f"  {title}: {' '.join(contrast.says.split())}", flush=True)
    given = Given(data, model)
    found = run(name, claim, seeds, out, given)
    took = [seconds_of(name, recipe_of(name, claim, seed, out, given)) for seed in seeds]
    rows = tabled(name, claim.table, [out / f"seed-{seed}" for seed in seeds]) if claim.table else []
    target = (pages or out) / f"{name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, page(name, claim, seeds, found, took, rows, Path(model).name).encode())
    verdicts = {title: _plain(one.verdict) for title, one in found.items()}
    kept = {"seeds": list(seeds), "recipe": recipe_hash(claim), "verdicts": verdicts}
    write_atomic(target.with_suffix(".json"), (json.dumps(kept, indent=2) + "\n").encode())
    write_atomic(target.with_name("README.md"), index(dict(_kept(target.parent))).encode())
    return "\n".join([*(f"{title}: {in_words(one)}" for title, one in found.items()), f"page: {target}"])


def _plain(found: Verdict) -> dict[str, Any]:
    """For JSON, which has no infinity: of one seed the interval is unknown."""
    return {key: value if isinstance(value, str) or isfinite(value) else None for key, value in found._asdict().items()}


def _kept(pages: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each claim that was run, and what is kept of it: seeds and verdicts."""
    for name in names():
        path = pages / f"{name}.json"
        if path.exists():
            yield name, json.loads(path.read_text(encoding="utf-8"))


def _list(pages: Path) -> Iterator[str]:
    """Each claim's name, title and, where it was run, verdicts."""
    kept = dict(_kept(pages))
    for name in names():
        claim: Claim = read_claim(name)
        yield f"{name}: {claim.title} ({claim.paper.strip()})"
        found = kept.get(name, {})
        older = " (of an older recipe)" if found and found["recipe"] != recipe_hash(claim) else ""
        for title in claim.contrasts:
            word = found["verdicts"][title]["word"] + older if title in found.get("verdicts", {}) else "not run"
            yield f"  {title}: {word}"
