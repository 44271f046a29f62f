"""The claim `helpful-harmless` from files in the form of hh-rlhf to its figures, very small."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from statistics import fmean

from tutelage.reproduce.claim import Given, read_claim
from tutelage.reproduce.running import reproduce, tabled

CLAIM = read_claim("helpful-harmless")
SMALL = {
    "tokenizer": {"vocab_size": 300},
    "base": {
        "steps": 3, "batch_size": 2, "sequence": 32, "compile": False,
        "model": {"layers": 1, "hidden_size": 32, "heads": 2, "context": 512},
    },
    "measured": {"resamples": 100},
} | {step: {"epochs": 1, "batch_size": 8, "warmup": 1} for step in ("helpful", "harmless", "both")}  # fmt: skip


def write(folder: Path) -> None:
    rng, words = random.Random(0), ["sea", "old", "of", "dull", "is", "the", "and", "not"]
    for place in CLAIM.steps["tokenizer"]["inputs"]["text"].values():
        path = folder / place.removeprefix("DATA/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(" ".join(rng.choices(words, k=60)) for _ in range(30)))
    for kind in ("helpful", "harmless"):
        (folder / "hh-rlhf" / f"{kind}-base").mkdir(parents=True)
        with gzip.open(folder / "hh-rlhf" / f"{kind}-base" / "test.jsonl.gz", "wt") as file:
            for i in range(40):
                asked = f"\n\nHuman: {kind} {i} {' '.join(rng.choices(words, k=3))}?\n\nAssistant: "
                row = {"chosen": asked + rng.choice(words), "rejected": asked + "no, " + rng.choice(words)}
                file.write(json.dumps(row) + "\n")


def test_accuracies_are_those_of_the_other_comparisons(tmp_path):
    write(tmp_path / "data")
    overrides = {f"helpful-harmless.{step}": knobs for step, knobs in SMALL.items()}
    found = reproduce("helpful-harmless", CLAIM, (3,), tmp_path / "out", Given(tmp_path / "data"), overrides)
    folder = tmp_path / "out" / "seed-3"

    def done(step: str) -> dict:
        return json.loads((folder / f"helpful-harmless.{step}" / "done.json").read_text())

    right = {kind: done(kind)["heldout_accuracy"] for kind in ("helpful", "harmless")}  # each stage's own measurement
    table = {row[0]: row[1:3] for row in tabled("helpful-harmless", CLAIM.table, [folder])}
    assert table["helpful alone"][0] == f"{right['helpful']:.3f}"
    assert table["harmless alone"][1] == f"{right['harmless']:.3f}"
    for title, crossed in (("helpfulness alone is harmful", 1), ("harmlessness alone is unhelpful", 0)):
        other = table["helpful alone" if crossed else "harmless alone"][crossed]
        assert found[title].more == (0.5,)
        assert f"{found[title].less[0]:.3f}" == other
    both = fmean(map(float, table["both"]))
    for title in ("both over either alone", "both keeps more than half"):
        assert abs(found[title].more[0] - both) < 1e-3
    halfway = (0.5 + fmean(right.values())) / 2
    assert abs(found["both keeps more than half"].less[0] - halfway) < 1e-9
    rankings = [
        (folder / f"helpful-harmless.{step}").read_text().count("\n")
        for step in ("data_helpful/rankings.jsonl", "data_harmless/rankings.jsonl", "mixed/rows.jsonl")
    ]
    assert rankings[2] == rankings[0] + rankings[1]
