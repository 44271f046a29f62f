"""Checkpoints of the toy task, trained once a session and shared by the tests that need a trained model.

torch is imported by the fixtures alone: the tests of the store run without it, which shows that the store does.

Hypothesis has no deadline here: on a busy machine it would fail tests that are right.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from databases import cluster, database, empty_file, where  # noqa: F401 - fixtures
from hypothesis import settings

if TYPE_CHECKING:
    from toy_task import Toy

settings.register_profile("tutelage", deadline=None)
settings.load_profile("tutelage")


def pytest_collection_finish() -> None:
    """Leave all that the imports made out of garbage collections: a recipe makes one after each step, of a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What is flushed to the disk outlives a power cut, which no test makes; a killed process loses nothing that it wrote.

    A small run flushes forty times and would wait for the disk as long as it computes. test_files.py holds what is flushed when.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    import torch
    from toy_task import make_toy

    torch.set_num_threads(1)
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def base(toy, tmp_path_factory) -> Path:
    from toy_task import pretrain_job

    return pretrain_job(toy, tmp_path_factory.mktemp("run") / "base").run()


@pytest.fixture(scope="session")
def tuned(toy, base, tmp_path_factory) -> Path:
    from toy_task import sft_job

    return sft_job(toy, base, tmp_path_factory.mktemp("run") / "sft").run()


@pytest.fixture(scope="session")
def scorer(toy, tuned, tmp_path_factory) -> Path:
    from toy_task import reward_job

    return reward_job(toy, tuned, tmp_path_factory.mktemp("run") / "reward").run()
