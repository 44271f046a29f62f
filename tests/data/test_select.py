"""The step "select": which rows are kept, unchanged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.data.select import SelectInputs, SelectSettings, main
from tutelage.errors import DataError, RecipeError

ROWS = [
    {"messages": [{"role": "user", "content": f"é {i}"}], "meta": {"language": ["en", "zh"][i % 2], "n": i % 3}}
    for i in range(12)
]


def written(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def selected(folder: Path, files: dict[str, list], **knobs) -> list:
    inputs = {name: written(folder / f"{name}.jsonl", rows) for name, rows in files.items()}
    out = main(SelectSettings(**knobs), SelectInputs(rows=inputs), folder / "out")
    return [json.loads(row) for row in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_are_kept_by_what_their_meta_says_in_their_order(tmp_path):
    kept = selected(tmp_path, {"a": ROWS}, where={"language": ("en",)}, without={"n": (0, 1)})
    assert kept == [row for row in ROWS if row["meta"]["language"] == "en" and row["meta"]["n"] == 2] != []


def test_of_rankings_the_prompt_says_it(tmp_path):
    rankings = [{"prompt": row, "completions": [{"text": "x"}, {"text": "y"}], "ranks": [1, 2]} for row in ROWS]
    kept = selected(tmp_path, {"a": rankings}, where={"n": (1,)})
    assert [row["prompt"] for row in kept] == [row for row in ROWS if row["meta"]["n"] == 1]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_limits_draw_so_many_of_each_file(tmp_path_factory, first, second, seed):
    folder = tmp_path_factory.mktemp("select")
    other = [row | {"source": "b"} for row in ROWS]
    kept = selected(folder, {"a": ROWS, "b": other}, limits={"a": first, "b": second}, seed=seed)
    assert [row for row in ROWS if row in kept[:first]] == kept[:first]
    assert [row for row in other if row in kept[first:]] == kept[first:]
    assert len(kept) == first + second


def test_too_few_rows_are_an_error_that_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl.*has 6 rows of this selection, and 7 are wanted"):
        selected(tmp_path, {"a": ROWS}, where={"language": ("zh",)}, limits={"a": 7})
    with pytest.raises(DataError, match="has 0 rows of this selection"):
        selected(tmp_path, {"a": ROWS}, where={"language": ("de",)})


def test_a_mixture_is_that_of_another_file(tmp_path):
    like = written(tmp_path / "like.jsonl", [ROWS[0], ROWS[1], ROWS[2], ROWS[3], ROWS[6]])
    inputs = SelectInputs(rows={"a": written(tmp_path / "a.jsonl", ROWS)}, like=like)
    out = main(SelectSettings(match=("language", "n")), inputs, tmp_path / "out")
    kept = [json.loads(row)["meta"] for row in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter((meta["language"], meta["n"]) for meta in kept) == {
        ("en", 0): 2, ("zh", 1): 1, ("en", 2): 1, ("zh", 0): 1,
    }  # fmt: skip
    more = SelectInputs(rows=inputs.rows, like=written(tmp_path / "more.jsonl", [ROWS[0]] * 3))
    with pytest.raises(DataError, match="has 2 rows of language en, n 0, and 3 are wanted"):
        main(SelectSettings(match=("language", "n")), more, tmp_path / "other")


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"limits": {"bb": 3}}, "limits.bb: no file is called 'bb'"),
        ({"match": ("n",)}, "give both or neither"),
        ({"limits": {"a": 0}}, "greater than 0"),
    ],
)
def test_what_names_nothing_is_refused_before_anything_is_read(knobs, said):
    with pytest.raises((RecipeError, ValueError), match=said):
        SelectSettings(**knobs).check(SelectInputs(rows={"a": Path("a.jsonl")}))


@pytest.mark.parametrize("knobs", [{"where": {"langage": ("en",)}}, {"without": {"langage": ("en",)}}])
def test_a_key_that_no_row_has_is_named(tmp_path, knobs):
    with pytest.raises(DataError, match=r"a\.jsonl.*no row says 'langage' in its meta; did you mean 'language'\?"):
        selected(tmp_path, {"a": ROWS}, **knobs)
