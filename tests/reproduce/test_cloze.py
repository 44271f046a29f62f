"""The cloze of gpt2: passages of held-out documents, each with its own last word and with another's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError
from tutelage.records import Document
from tutelage.reproduce.cloze import ClozeInputs, ClozeSettings, main

LINES = [
    "She looked at the old house, and then at the river.",
    "He said that nothing would ever be the same again!",
    "Was there anyone who had seen it before, or after, the storm?",
    "It was cold.",  # too short
    "They went to the town, and there they met old Mr. Brown.",  # a name
    "What he had in mind was not a thing to be told of to us.",  # a short word
    "And then - as if that were enough - came silence, and the river.",
]


def made(folder: Path, **knobs: int) -> list[dict[str, str]]:
    documents = [Document(text="\n".join(LINES[:3])), Document(text="\n".join(LINES[3:]))]
    write_jsonl(folder / "documents.jsonl", documents)
    settings = ClozeSettings(**{"passages": 4, "shortest": 20, "longest": 100, **knobs})
    out = main(settings, ClozeInputs(documents=folder / "documents.jsonl"), folder / f"cloze{len(knobs)}")
    return [json.loads(line) for line in (out / "blimp" / "cloze.jsonl").read_text().splitlines()]


def test_a_passage_and_the_same_with_a_word_that_ends_another(tmp_path):
    rows = made(tmp_path)
    assert Counter(row["sentence_good"] for row in rows) == Counter([*LINES[:3], LINES[6]])
    words = {"river", "again", "storm"}
    for row in rows:
        own, other = (row[key].split()[-1] for key in ("sentence_good", "sentence_bad"))
        assert row["sentence_good"].removesuffix(own) == row["sentence_bad"].removesuffix(other)
        assert own[-1] == other[-1]
        assert {own[:-1], other[:-1]} < words
        assert own != other


def test_seeds_draw_others_and_too_few_are_an_error(tmp_path):
    assert made(tmp_path) == made(tmp_path)
    assert made(tmp_path) != made(tmp_path, seed=5)
    with pytest.raises(DataError, match=r"documents\.jsonl: has 4 passages that end in a word .*, and 5 are wanted"):
        made(tmp_path, passages=5, seed=1)
