"""Claims from their data to their figures, very small: what is compared is what their contrasts say."""

from __future__ import annotations

import json
import random
import zipfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from tutelage.recipes.steps import read_recipe, shipped_recipe
from tutelage.reproduce.claim import Given, read_claim
from tutelage.reproduce.running import Found, reproduce, tabled

WORLD = {
    "people": 12, "documents": 300, "heldout_documents": 10, "demonstrations": 60, "heldout_demonstrations": 12,
    "prompts": 40, "heldout_prompts": 24,
}  # fmt: skip
MODEL = {"layers": 1, "hidden_size": 32, "heads": 2}


def run(name: str, out: Path, data: Path | None, overrides: dict) -> dict[str, Found]:
    return reproduce(name, read_claim(name), (3,), out, Given(data), overrides)


def done(step: Path) -> dict:
    return json.loads((step / "done.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Novels, film reviews and questions in the forms of ../shared/data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "100_english_novels" / "corpus").mkdir(parents=True)
    rng = random.Random(0)
    words = ["a", "film", "of", "great", "dull", "is", "the", "and", "sea", "not"]
    for i in range(4):
        text = "\n\n".join(" ".join(rng.choices(words, k=60)) + "." for _ in range(60))
        (folder / "100_english_novels" / "corpus" / f"{i}.txt").write_text(text)
    (folder / "nltk").mkdir()
    with zipfile.ZipFile(folder / "nltk" / "sentence_polarity.zip", "w") as archive:
        for label, word in (("pos", "great"), ("neg", "dull")):
            lines = (f"{' '.join(rng.choices(words[5:], k=5))} {word} {i} ." for i in range(60))
            archive.writestr(f"sentence_polarity/rt-polarity.{label}", "\n".join(lines))
    with zipfile.ZipFile(folder / "nltk" / "movie_reviews.zip", "w") as archive:
        for i in range(8):
            archive.writestr(f"movie_reviews/{'pn'[i % 2]}/{i}.txt", " ".join(rng.choices(words, k=80)))
    (folder / "commonsense-math" / "boolq").mkdir(parents=True)
    asked = "Please answer the following question with true or false, question: {}?\n\nAnswer format: true/false"
    rows = [
        {"instruction": asked.format(f"is {i} {' '.join(rng.choices(words, k=4))}"), "answer": str(i % 3 > 0).lower()}
        for i in range(90)
    ]
    (folder / "commonsense-math" / "boolq" / "train.json").write_text(json.dumps(rows))
    return folder


def test_gpt1_compares_accuracies_and_mean_recalls_of_the_same_rows(data, tmp_path):
    small = {
        "gpt1.data": {"heldout": {"novels": 0.5, "reviews": 0.5}},
        "gpt1.tokenizer": {"vocab_size": 300},
        "gpt1.pretrained": {"steps": 3, "batch_size": 2, "sequence": 32, "compile": False, "model": MODEL},
    }
    claim = read_claim("gpt1")
    classifiers = [step for step, each in claim.steps.items() if each["kind"] == "classify"]
    found = run("gpt1", tmp_path, data, small | {f"gpt1.{step}": {"epochs": 1, "warmup": 1} for step in classifiers})
    assert list(found) == list(claim.contrasts)
    accuracy, recall, places = {}, {}, defaultdict(set)
    for step in classifiers:
        lines = (tmp_path / "seed-3" / f"gpt1.{step}" / "predictions.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        right = defaultdict(list)
        for row in rows:
            right[row["label"]].append(row["predicted"] == row["label"])
        accuracy[step] = fmean(hit for hits in right.values() for hit in hits)
        recall[step] = fmean(map(fmean, right.values()))
        places[step.partition("_")[0]].add(tuple(row["place"] for row in rows))
    assert [len(rows) for rows in places.values()] == [1, 1]  # all learners of a set are measured on the same rows
    for title, one in found.items():
        of = recall if "recall" in one.contrast.more[0] else accuracy
        sides = [
            fmean(of[figure.partition("/")[0]] for figure in side) for side in (one.contrast.more, one.contrast.less)
        ]
        assert (*one.more, *one.less) == pytest.approx(sides), title


def test_diamante_compares_models_that_took_the_same_steps_on_the_same_rows(tmp_path):
    stage = {"batch_size": 8, "warmup": 1}
    found = run("diamante", tmp_path, None, {
        "world": WORLD,
        "tokenizer": {"vocab_size": 400},
        "base": {"steps": 12, "batch_size": 2, "compile": False, "model": MODEL},
        "diamante.flawless": WORLD, "diamante.start": {"batch_size": 8, "ptx": {"coef": 0.0}},
        "diamante.rows": {"limits": {"world": 30}},
        "diamante.answers": {"max_tokens": 8}, "diamante.answers_heldout": {"max_tokens": 8},
        "diamante.joint": stage | {"max_tokens": 8}, "diamante.likelihood": stage,
        "diamante.evaluate": {"max_tokens": 8, "ask": {"picked": {"best_of": 2}}},
        "diamante.likeliest": {"max_tokens": 8},
    })  # fmt: skip
    assert list(found) == list(read_claim("diamante").contrasts)
    seed = tmp_path / "seed-3"
    joint, alone = seed / "diamante.joint", seed / "diamante.likelihood"
    learned = done(seed / "diamante.compared")["demonstrations.jsonl"]
    assert done(joint)["prompts"] == done(alone)["conversations"] == learned
    last = [json.loads((step / "metrics.jsonl").read_text().splitlines()[-1]) for step in (joint, alone)]
    assert last[0]["step"] == last[1]["step"] == -(-learned // 8)
    assert last[0]["lr"] == last[1]["lr"]
    results = json.loads((seed / "diamante.evaluate" / "results.json").read_text())
    assert results["models"]["picked"]["ask"]["best_of"] == 2
    assert found["joint over likelihood alone"].more == (results["models"]["picked"]["gold"],)
    assert results["reward_models"]["joint"]["human"]["prompts"] == done(seed / "diamante.heldout")["rankings.jsonl"]


SMALL = {
    "world": WORLD | {"prompts": 60, "heldout_prompts": 60, "demonstrations": 100},
    "tokenizer": {"vocab_size": 400},
    "pretrain": {"steps": 8, "sequence": 64, "batch_size": 4, "compile": False, "model": MODEL | {"context": 384}},
    "sft": {"batch_size": 8, "epochs": 1, "max_length": 384, "ptx": {"coef": 0.0}},
    "sample": {"max_tokens": 8},
    "label": {"prompts": 24, "heldout_prompts": 16, "completions": 3, "max_tokens": 8},
    "reward": {"batch_size": 8, "max_length": 384},
    "ppo": {"updates": 6, "batch_size": 8, "minibatch": 8, "max_tokens": 8, "warmup": 1, "ptx": {"windows": 2, "sequence": 64}},
    "select": {"limits": {"world": 40}},
    "evaluate": {"max_tokens": 8},
    "prepare": {"heldout": {"novels": 0.5}},
    "cloze": {"passages": 12, "shortest": 20},
    "tasks": {},
    "preferences": {},
}  # fmt: skip
"""By kind of step."""
CHANGED = {
    "summarize.passages": {"prompts": 400, "heldout_prompts": 100},
    "summarize.asked": {"limits": {}}, "summarize.asked_heldout": {"limits": {}},
    "summarize.rankings": {"prompts": None, "heldout_prompts": None, "completions": None, "max_tokens": None},
    "t0.rows_three": {"limits": {"world": 3}}, "t0.rows_all": {"limits": {}}, "t0.rows_other": {"limits": {}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of a run that claims share, so that the demo's steps are made once."""
    return tmp_path_factory.mktemp("claims")


@pytest.mark.parametrize("name", ["instructgpt", "t0", "quality-or-rl", "summarize", "sqrt-kl", "gpt3-size", "gpt2"])
def test_every_figure_of_a_claim_is_where_it_looks_for_it(name, folder, data):
    """An hour's run must not end in a figure that is not there, or a column of dashes."""
    write_blimp(data)
    claim, demo = read_claim(name), read_recipe(shipped_recipe("demo.yaml")).steps
    kinds = {step: each["kind"] for step, each in demo.items()}
    kinds |= {f"{name}.{step}": each["kind"] for step, each in claim.steps.items()}
    small = {}
    for step, kind in kinds.items():
        knobs = SMALL.get(kind, {}) | CHANGED.get(step, {})
        small[step] = {key: value for key, value in knobs.items() if value is not None}
    found = run(name, folder, data if name == "gpt2" else None, small)
    assert list(found) == list(claim.contrasts)
    for row in tabled(name, claim.table, [folder / "seed-3"]) if claim.table else []:
        assert "–" not in row


def write_blimp(data: Path) -> None:
    (data / "blimp").mkdir(exist_ok=True)
    pair = {"sentence_good": "the sea is great", "sentence_bad": "the sea great is", "UID": "order"}
    (data / "blimp" / "order.jsonl").write_text(json.dumps(pair) + "\n")
