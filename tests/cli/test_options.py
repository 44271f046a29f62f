"""Typed functions as commands: which options they have, and which values reach the function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from cyclopts import App
from fake_kinds import Knobs, TrainInputs
from pydantic import Field

from tutelage.cli.options import Typed, as_function
from tutelage.errors import RecipeError
from tutelage.recipes.steps import KINDS
from tutelage.settings import Settings


class Sampling(Settings):
    temperature: float = Field(1.0, ge=0, description="of sampling")
    top_k: int = Field(0, ge=0, description="likeliest tokens kept")


def command(
    path: Annotated[Path, Field(description="what to read")],
    more: Annotated[list[Path], Field(description="and more")] = [],  # noqa: B006
    sampling: Sampling = Sampling(temperature=0.5),  # noqa: B008
    *,
    from_: Annotated[str | None, Field(description="where to begin")] = "start",
    mode: Annotated[Literal["fast", "slow"] | bool | None, Field(description="how")] = None,
    dry: Annotated[bool, Field(description="do nothing")] = False,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    return dict(locals())


def given(function, *words: str) -> dict[str, Any]:
    """The values that cyclopts finds in a command line."""
    app = App("x")
    app.default(as_function(Typed.of(function).options(words)))
    parser, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return parser(*bound.args, **bound.kwargs)


def train(inputs: TrainInputs, knobs: Knobs) -> tuple[TrainInputs, Knobs]:
    return inputs, knobs


NEEDED = ("--checkpoint", "c", "--demonstrations", "d")


def test_a_function_gets_what_was_given_and_its_defaults():
    found = Typed.of(command).call(given(command, "a") | {"beyond": {"x": 1}})
    assert found == {
        "path": Path("a"), "more": [], "sampling": Sampling(temperature=0.5), "from_": "start", "mode": None, "dry": False,
        "overrides": {"beyond": {"x": 1}},
    }  # fmt: skip
    words = ("a", "b", "c", "--top_k", "4", "--from", "none", "--mode", "true", "--dry")
    found = Typed.of(command).call(given(command, *words))
    assert (found["more"], found["sampling"]) == ([Path("b"), Path("c")], Sampling(temperature=0.5, top_k=4))
    assert (found["from_"], found["mode"], found["dry"], found["overrides"]) == (None, True, True, {})
    assert Typed.of(command).call(given(command, "--path", "a"))["path"] == Path("a")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--lr", "1e-3"], {"lr": "1e-3"}),
        (["--lr=-1"], {"lr": "-1"}),
        (["--lr", "-1"], {"lr": "-1"}),
        (["--kl.coef", "0.1", "--kl.controller", "fixed"], {"kl": {"coef": "0.1", "controller": "fixed"}}),
        (["--text.novels", "a", "--text.wiki=b"], {"text": {"novels": "a", "wiki": "b"}}),
        (["--sources.novels.weight", "2"], {"sources": {"novels": {"weight": "2"}}}),
        (["--machine.recompute"], {"machine": {"recompute": True}}),
        (["--machine.no-recompute"], {"machine": {"recompute": False}}),
        (["--machine.recompute=false"], {"machine": {"recompute": False}}),
        (["--budget", "none"], {"budget": None}),
        (["--budget", "none", "--machine.keep_best", "none"], {"budget": None, "machine": {"keep_best": None}}),
        (["--machine.device", "none"], {"machine": {"device": "none"}}),
        (["--machine.keep-best", "loss"], {"machine": {"keep_best": "loss"}}),
        (["--layers", "a", "b", "--layers", "c"], {"layers": ["a", "b", "c"]}),
    ],
)
def test_values_are_what_was_typed_and_nothing_else(words, values):
    assert given(train, *words) == values


def test_settings_are_validated_once_with_their_defaults_in_place():
    """Low alone would be above the default of high."""
    inputs, knobs = Typed.of(train).call(given(train, *NEEDED, "--low", "8", "--high", "9", "--sources.a.first", "3"))
    assert (knobs.low, knobs.high, knobs.kl.coef, knobs.sources["a"].first) == (8, 9, 0.2, 3)
    assert inputs.files() == {"checkpoint": Path("c"), "demonstrations": Path("d")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (NEEDED[:2], "--demonstrations is required"),
        ((*NEEDED, "--low", "8"), "command line: low is above high"),
        ((*NEEDED, "--lr", "fast"), "--lr should be a number, found 'fast'"),
        ((*NEEDED, "--lr="), "--lr should be a number"),
        ((*NEEDED, "--lr", "nan"), "--lr should be a finite number"),
        ((*NEEDED, "--kl.coef", "-1"), "--kl.coef should be greater than or equal to 0, found '-1'"),
        ((*NEEDED, "--epochs", "none"), "--epochs should be a whole number"),
        ((*NEEDED, "--heldout="), "--heldout should be a path"),
        ((*NEEDED, "--sources.a.weight", "0"), "--sources.a.weight should be greater than 0, found '0'"),
    ],
)
def test_an_error_is_one_line_in_the_words_of_the_settings(words, message):
    with pytest.raises(RecipeError) as error:
        Typed.of(train).call(given(train, *words))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_options_say_what_documentation_needs():
    options = {option.name: option for option in Typed.of(train).options()}
    shown = {
        name: options[name].shown_default for name in ("checkpoint", "heldout", "text.NAME", "layers", "low", "kl.coef")
    }
    assert shown == {
        "checkpoint": "required", "heldout": "none", "text.NAME": "", "layers": "qkv up", "low": "0", "kl.coef": "0.2",
    }  # fmt: skip
    assert options["machine.recompute"].shown_default == "true"
    assert options["sources.NAME.weight"].description == "share of the tokens"


@pytest.mark.parametrize("name", KINDS)
def test_knobs_and_inputs_of_a_kind_have_different_names(name):
    """On the command line they are not told apart by a prefix."""
    knobs, inputs = KINDS[name].classes()
    assert not {*knobs.model_fields, "out"} & inputs.model_fields.keys()
