"""Checkpoints of the toy task, trained once a session and shared by the tests that need a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_task import Toy, make_toy, pretrain_settings, reward_settings, sft_settings

from tutelage.train import pretrain, reward, sft


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.set_num_threads(1)
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def base(toy, tmp_path_factory) -> Path:
    return pretrain.main(pretrain_settings(toy, tmp_path_factory.mktemp("run") / "base"))


@pytest.fixture(scope="session")
def tuned(toy, base, tmp_path_factory) -> Path:
    return sft.main(sft_settings(toy, base, tmp_path_factory.mktemp("run") / "sft"))


@pytest.fixture(scope="session")
def scorer(toy, tuned, tmp_path_factory) -> Path:
    return reward.main(reward_settings(toy, tuned, tmp_path_factory.mktemp("run") / "reward"))
