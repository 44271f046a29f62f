"""Checkpoints of the toy task, trained once a session and shared by the tests that need a trained model.

Hypothesis has no deadline here: on a busy machine it would fail tests that are right.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from databases import cluster, database, empty_file, where  # noqa: F401 - fixtures
from hypothesis import settings
from toy_task import Toy, make_toy, pretrain_job, reward_job, sft_job

settings.register_profile("tutelage", deadline=None)
settings.load_profile("tutelage")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.set_num_threads(1)
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def base(toy, tmp_path_factory) -> Path:
    return pretrain_job(toy, tmp_path_factory.mktemp("run") / "base").run()


@pytest.fixture(scope="session")
def tuned(toy, base, tmp_path_factory) -> Path:
    return sft_job(toy, base, tmp_path_factory.mktemp("run") / "sft").run()


@pytest.fixture(scope="session")
def scorer(toy, tuned, tmp_path_factory) -> Path:
    return reward_job(toy, tuned, tmp_path_factory.mktemp("run") / "reward").run()
