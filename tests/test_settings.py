"""Settings and inputs: YAML in and out, validation, and errors that say what and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tutelage.errors import RecipeError
from tutelage.settings import (
    Inputs,
    ModelPath,
    Settings,
    merge,
    plain,
    read_yaml,
    setting_names,
    type_name,
    validated,
    write_yaml,
)


class Inner(Settings):
    lr: float = Field(1e-3, gt=0, description="learning rate")
    name: str = "x"


class Outer(Settings):
    """An example."""

    steps: int = Field(10, gt=0, description="how long")
    flag: bool = Field(False, description="a switch")
    inner: Inner = Field(Inner(), description="nested")
    free: dict[str, Inner] = Field({}, description="named")
    maybe: Inner | None = None


class Files(Inputs):
    checkpoint: ModelPath
    rankings: Path | None = None
    text: dict[str, Path] = Field({})
    scorers: dict[str, ModelPath] = Field({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepps": 3}, "unknown setting 'stepps'; did you mean 'steps'?"),
        ({"lr": 3}, "unknown setting 'lr'; did you mean 'inner.lr'?"),
        ({"steps": 0}, "steps should be greater than 0, found 0"),
        ({"steps": True}, "steps should be a number, found true"),
        ({"steps": "many"}, "steps should be a whole number"),
        ({"inner": {"lr": float("nan")}}, "inner.lr should be a finite number"),
        ({"inner": 3}, "inner should be a mapping of settings, found 3"),
        (
            {"inner": {"name": 42}},
            "inner.name should be text; put numbers and truth values in quotes",
        ),
        ({"free": {"a": {"lrr": 1}}}, "unknown setting 'free.a.lrr'; did you mean 'inner.lr'?"),
    ],
)
def test_errors_name_source_setting_and_nearest(values, message):
    with pytest.raises(RecipeError) as error:
        validated(Outer, values, "here.yaml")
    assert str(error.value).startswith(f"here.yaml: {message}")
    assert "\n" not in str(error.value)


def test_inputs_are_listed_by_dotted_name_and_hub_names_are_resolved_but_remembered():
    given = Files(checkpoint="owner/model", text={"a": "x"}, scorers={"b": "other/model"})
    assert given.files() == {"checkpoint": Path("owner/model"), "text.a": Path("x"), "scorers.b": Path("other/model")}
    local = given.local(lambda name: Path("cache") / name)
    assert local.checkpoint == Path("cache/owner/model")
    assert local.scorers["b"] == Path("cache/other/model")
    assert local.text["a"] == Path("x")
    assert local.as_given() == given.as_given() == plain(given)
    with pytest.raises(RecipeError, match="checkpoint is required"):
        validated(Files, {}, "command line")
    with pytest.raises(RecipeError, match="checkpoint should be a path"):
        validated(Files, {"checkpoint": ""}, "command line")


WORDS = st.text(st.characters(exclude_characters="\x85"), max_size=20)  # ruamel.yaml folds U+0085 to a space


@given(steps=st.integers(1, 10**9), lr=st.floats(1e-9, 1e3), name=WORDS, flag=st.booleans())
def test_what_is_written_reads_back_equal(tmp_path_factory, steps, lr, name, flag):
    settings = Outer(steps=steps, flag=flag, inner=Inner(lr=lr, name=name), free={"no": Inner(name="1e-3")})
    path = tmp_path_factory.mktemp("r") / "recipe.yaml"
    path.write_text(write_yaml(plain(settings)), encoding="utf-8")
    assert validated(Outer, read_yaml(path), "here") == settings


def test_yaml_is_1_2(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: 1e-3\nb: no\nc: 12:30\nd: 0o17\n", encoding="utf-8")
    assert read_yaml(path) == {"a": 0.001, "b": "no", "c": "12:30", "d": 15}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2\n", ":2:1: not valid YAML: found duplicate key"),
        (b"- 1\n- 2\n", ": a mapping of settings is expected, found list"),
        (b"a: [1\nb: 2\n", ":2:2: not valid YAML"),
        (b"\tb: 1\n", ":1:1: not valid YAML"),
        (b"", ": a mapping of settings is expected, found nothing"),
        ("a: 1".encode("utf-16"), ": is not UTF-8"),
    ],
)
def test_bad_yaml_is_named_with_its_place(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_later_values_win_at_every_depth():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "e": 5}) == {"a": {"b": 4, "c": 2}, "d": 3, "e": 5}
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_names_and_types_of_settings():
    names = ["steps", "flag", "inner", "inner.lr", "inner.name", "free", "maybe", "maybe.lr", "maybe.name"]
    assert list(setting_names(Outer)) == names
    kinds = (int, Path, Literal["a", "b"], Literal["a"] | bool | None, dict[str, Path], Annotated[Path | None, "model"])
    assert [type_name(kind) for kind in kinds] == ["int", "path", "a|b", "a|bool|none", "dict[str, path]", "path|none"]
