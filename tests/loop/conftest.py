"""A very small run on the embedded world to start from, trained once, and stores in which simulated people have asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loop_helpers import SETTINGS, start_recipe

from tutelage.loop import simulate
from tutelage.loop.settings import LoopSettings
from tutelage.recipes.run import run_recipe
from tutelage.recipes.steps import plan, read_recipe, select
from tutelage.settings import write_yaml
from tutelage.store.opening import open_store
from tutelage.store.prompts import collect, prompts_to_rank


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose reward and PPO steps are written down and have not been run: a round needs no more."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("start")
    file = folder / "start.yaml"
    file.write_text(write_yaml(start_recipe(folder / "run")))
    recipe = read_recipe(file)
    run_recipe(recipe, select(plan(recipe), only=("world", "tokenizer", "base", "sft", "labels")))
    return folder / "run"


@pytest.fixture(scope="session")
def settings(start: Path) -> LoopSettings:
    return LoopSettings.model_validate(SETTINGS | {"start": str(start), "out": str(start.parent / "loop")})


@pytest.fixture(scope="session")
def asked(start: Path, settings: LoopSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which simulated people have asked the first round's questions, to copy: ids are drawn when things are made, and
    with them who is held out, which has to be somebody and not everybody."""
    while True:
        path = tmp_path_factory.mktemp("asked") / "tutelage.db"
        store = open_store(path)
        simulate.ask(store, settings.simulated, start / "world" / "prompts.jsonl", 1, settings.seed)
        collect(store)
        splits = {one.purpose for one in prompts_to_rank(store, 99, held_out=settings.held_out)}
        store.close()
        if len(splits) == 2:
            return path
