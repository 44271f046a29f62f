"""Recipes: one road for YAML and the command line, and errors that say what and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tutelage import settings as recipe
from tutelage.errors import RecipeError
from tutelage.settings import Settings


class Inner(Settings):
    lr: float = Field(1e-3, gt=0, description="learning rate")
    name: str = "x"


class Outer(Settings):
    """An example."""

    out: Path = Field(description="where to")
    steps: int = Field(10, gt=0, description="how long")
    flag: bool = Field(False, description="a switch")
    inner: Inner = Field(Inner(), description="nested")
    free: dict[str, Inner] = Field({}, description="named")
    maybe: Inner | None = None


def test_later_wins():
    settings = recipe.resolve(
        Outer, {"out": "a", "steps": 3, "inner": {"lr": 0.5, "name": "y"}}, ["--inner.lr", "0.25"]
    )
    assert (settings.steps, settings.inner.lr, settings.inner.name) == (3, 0.25, "y")


@pytest.mark.parametrize(
    "arguments",
    [["--flag"], ["--flag", "true"], ["--flag=true"], ["--flag", "--steps", "10"]],
)
def test_switches(arguments):
    assert recipe.resolve(Outer, {"out": "a"}, arguments).flag is True


def test_scientific_notation_is_a_number():
    assert recipe.resolve(Outer, {"out": "a"}, ["--inner.lr", "3e-4"]).inner.lr == 3e-4


@pytest.mark.parametrize(
    "text", ["yes", "12:30", "C # a language", "Where: Paris", "# Title", "42", "[a", "none such", ""]
)
def test_text_and_paths_are_taken_as_they_stand(text):
    arguments = [f"--inner.name={text}", f"--free.novels.name={text}"]
    settings = recipe.resolve(Outer, {"out": "a"}, arguments)
    assert settings.inner.name == settings.free["novels"].name == text
    assert recipe.resolve(Outer, {}, ["--out", "2026"]).out == Path("2026")


def test_none_is_none_where_a_setting_may_be():
    assert recipe.resolve(Outer, {"out": "a", "maybe": {}}, ["--maybe", "none"]).maybe is None


def test_free_names_inside_a_mapping():
    settings = recipe.resolve(Outer, {"out": "a"}, ["--free.novels.lr", "2"])
    assert settings.free["novels"].lr == 2


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ({"out": "a", "stepps": 3}, [], "unknown setting 'stepps'; did you mean 'steps'?"),
        ({"out": "a"}, ["--stepps", "3"], "unknown setting --stepps; did you mean 'steps'?"),
        ({"out": "a"}, ["--lr", "3"], "did you mean 'inner.lr'?"),
        ({"out": "a", "steps": 0}, [], "setting 'steps': input should be greater than 0, found 0"),
        ({"out": "a", "steps": "many"}, [], "setting 'steps'"),
        ({"out": "a", "inner": {"lr": float("nan")}}, [], "setting 'inner.lr'"),
        ({}, [], "setting 'out' is required"),
        ({"out": "a"}, ["steps"], "unexpected argument 'steps'"),
    ],
)
def test_errors_name_the_setting_and_the_nearest(values, arguments, message):
    with pytest.raises(RecipeError) as error:
        recipe.resolve(Outer, values, arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@given(steps=st.integers(1, 10**6), lr=st.floats(1e-9, 1e3), name=st.text(max_size=20), flag=st.booleans())
def test_what_is_dumped_reads_back_equal(tmp_path_factory, steps, lr, name, flag):
    settings = Outer(out=Path("a"), steps=steps, flag=flag, inner=Inner(lr=lr, name=name))
    path = tmp_path_factory.mktemp("r") / "recipe.yaml"
    path.write_text(recipe.dump(settings), encoding="utf-8")
    assert recipe.resolve(Outer, recipe.read_yaml(path)) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "twice"),
        ("- 1\n- 2\n", "mapping"),
        ("a: [1\n", "not valid YAML"),
        ("\tb: 1\n", "not valid YAML"),
        ("", "mapping"),
    ],
)
def test_bad_yaml_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as error:
        recipe.read_yaml(path)
    assert str(path) in str(error.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        recipe.read_yaml(tmp_path / "nowhere.yaml")


def test_every_setting_is_described():
    names = [name for name, *_ in recipe.describe(Outer)]
    assert names == [
        "out",
        "steps",
        "flag",
        "inner",
        "inner.lr",
        "inner.name",
        "free",
        "maybe",
        "maybe.lr",
        "maybe.name",
    ]
