"""One's own data files as a step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tutelage.data.prepare import DataSettings, Part, Text, prepare
from tutelage.errors import RecipeError
from tutelage.runs.folder import open_run
from tutelage.settings import Inputs, Settings, nearest


class PrepareInputs(Inputs):
    """Files and folders of your own, each under a name of your choice."""

    text: dict[str, Path] = Field(description="pretraining text")
    demonstrations: dict[str, Path] = Field(description="conversations to imitate")
    rankings: dict[str, Path] = Field(description="rankings for the reward model")
    prompts: dict[str, Path] = Field(description="prompts that PPO answers")
    heldout_prompts: dict[str, Path] = Field(description="prompts that models are compared on")


class PrepareSettings(Settings):
    """How they are split and capped."""

    heldout: dict[str, float] = Field(
        {}, description="share of a text's files (or documents, if it is one file) held out, by name"
    )
    limit: dict[str, dict[str, int]] = Field(
        {}, description="most records to take, by input and name, such as limit.demonstrations.alpaca; default: all"
    )
    heldout_share: float = Field(0.05, gt=0, lt=1, description="share of demonstrations held out")
    heldout_rankings_share: float = Field(0.15, gt=0, lt=1, description="share of ranked prompts held out")
    seed: int = Field(0, description="seed of splits and of which records a limit keeps")

    def check(self, inputs: Inputs) -> None:
        """Shares and limits must name what the inputs have."""
        assert isinstance(inputs, PrepareInputs)
        given = {name: list(getattr(inputs, name)) for name in type(inputs).model_fields}
        for name in self.heldout:
            if name not in given["text"]:
                raise RecipeError(f"heldout: there is no text {name!r}{nearest(name, given['text'])}")
        for group, limits in self.limit.items():
            for name in limits:
                if name not in given.get(group, []):
                    known = [f"{g}.{n}" for g, names in given.items() for n in names]
                    raise RecipeError(f"limit: there is no input {group}.{name}{nearest(f'{group}.{name}', known)}")


def main(knobs: PrepareSettings, inputs: PrepareInputs, out: Path) -> Path:
    """Write the files that the other steps read; returns their folder."""
    with open_run(out, "prepare", knobs, inputs) as run:
        if not run.finished:
            run.finish(prepare(_data_settings(knobs, inputs), out, knobs.seed))
    return out


def _data_settings(knobs: PrepareSettings, inputs: PrepareInputs) -> DataSettings:
    def parts(group: str) -> dict[str, Part]:
        limits = knobs.limit.get(group, {})
        return {name: Part(path=path, limit=limits.get(name, 0)) for name, path in getattr(inputs, group).items()}

    return DataSettings(
        text={name: Text(path=path, heldout=knobs.heldout.get(name, 0.0)) for name, path in inputs.text.items()},
        demonstrations=parts("demonstrations"),
        rankings=parts("rankings"),
        prompts=parts("prompts"),
        heldout_prompts=parts("heldout_prompts"),
        heldout_share=knobs.heldout_share,
        heldout_rankings_share=knobs.heldout_rankings_share,
    )
