"""Processes killed or stopped at the moments that could hurt most, and the checkpoints that a run keeps on its way."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from real_process import SAVING, assert_same_end, die, finish, said, saved_step, start
from toy_task import MACHINE, Job, few_documents, logged, ppo_job, pretrain_job, reward_job, sft_job

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_conversations
from tutelage.errors import RecipeError
from tutelage.model.checkpoint import load_decoder
from tutelage.train import checkpointing, pretrain, sft


def while_the_state_is_written() -> None:
    """The third state: half of it is on the disk."""
    save, calls = torch.save, []

    def half(state: Any, file: Any) -> None:
        calls.append(state)
        if len(calls) < 3:
            return save(state, file)
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        die()

    torch.save = half


def between_the_names_of_two_states() -> None:
    """The old state has been renamed, the new one not yet."""
    replace = Path.replace

    def then_die(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        if target.name == "state.previous.pt":
            die()
        return moved

    Path.replace = then_die


def while_a_row_is_logged() -> None:
    """A row of a step that no state holds yet is in the log, and half of the next."""
    log, calls = checkpointing.RunFolder.log, []

    def torn(run: Any, step: int, numbers: Any) -> None:
        log(run, step, numbers)
        calls.append(step)
        if len(calls) == 3:
            with (run.path / "metrics.jsonl").open("a") as file:
                file.write('{"step": 11, "lo')
            die()

    checkpointing.RunFolder.log = torn


def in_evaluation() -> None:
    """The second evaluation, begun and not logged."""
    for module, name in ((pretrain, "negative_log_likelihood"), (sft, "heldout_loss")):
        measure, calls = getattr(module, name), []

        def mortal(*arguments: Any, measure: Any = measure, calls: list[int] = calls) -> Any:
            calls.append(1)
            return measure(*arguments) if len(calls) < 2 else die()

        setattr(module, name, mortal)


def in_the_final_save() -> None:
    """The weights of the result are written, the tokenizer is not; of SFT's, which is linked, one file is there."""
    save, link = checkpointing.save_model, os.link

    def save_and_die(folder: Path, *arguments: Any, **ids: Any) -> None:
        save(folder, *arguments, **ids)
        if "checkpoint." in folder.name:
            die()

    def link_and_die(source: str, target: str) -> None:
        link(source, target)
        die()

    checkpointing.save_model, os.link = save_and_die, link_and_die


def without_links() -> None:
    """A file system that has no hard links."""

    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", source)

    os.link = refuse


def before_it_says_that_it_is_done() -> None:
    """The result is whole; done.json is missing."""
    checkpointing.RunFolder.finish = lambda run, numbers: die()


MOMENTS = [
    while_the_state_is_written,
    between_the_names_of_two_states,
    while_a_row_is_logged,
    in_evaluation,
    in_the_final_save,
    before_it_says_that_it_is_done,
]


def make(stage_name: str, toy, base, out: Path) -> Job:
    """A job with several saves and evaluations in little time."""
    if stage_name == "pretrain":
        few = few_documents(toy, toy.folder)
        return pretrain_job(toy, out, optimizer="muon", steps=13, heldout=few, evaluate_every=4, **SAVING)
    return sft_job(toy, base, out, epochs=2, batch_size=40, dropout=0.1, **SAVING)


@pytest.fixture(scope="module")
def undisturbed(toy, base, tmp_path_factory) -> dict[str, Path]:
    """Runs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("pretrain", "sft"):
        assert finish(start(make(name, toy, base, folder / name))) == 0
    return {name: folder / name for name in ("pretrain", "sft")}


@pytest.mark.parametrize("name", ["pretrain", "sft"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_run_killed_at_the_worst_moments_ends_as_an_undisturbed_one(toy, base, undisturbed, tmp_path, name, moment):
    job = make(name, toy, base, tmp_path / "killed")
    assert finish(start(job, moment)) == -signal.SIGKILL, said(job).read_text()
    left = sorted(path.name for path in job.out.glob(".*.tmp"))
    if moment is while_the_state_is_written:
        assert [name.split(".")[1] for name in left] == ["state"], "a half-written state stands under a temporary name"
        assert saved_step(job.out) == 6
    if moment is between_the_names_of_two_states:
        assert not (job.out / "state.pt").exists()
    if moment is in_the_final_save:
        assert not job.out.joinpath("checkpoint").exists(), "half a checkpoint"
        assert saved_step(job.out) == logged(undisturbed[name])[-1]["step"], "the last step is saved before the end"
    before = without_links if moment is in_the_final_save else None
    assert finish(start(job, before)) == 0, said(job).read_text()
    assert_same_end(undisturbed[name], job.out)


def stop_in_the_final_save() -> None:
    """SIGTERM while the result is being written."""
    save = checkpointing.save_model

    def interrupted(*arguments: Any, **ids: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(*arguments, **ids)

    checkpointing.save_model = interrupted


def test_sigterm_after_the_last_step_lets_the_stage_finish(toy, tmp_path):
    """Nothing was saved on the way: to stop at once would lose the run."""
    job = pretrain_job(toy, tmp_path / "run", steps=3, heldout=few_documents(toy, tmp_path))
    assert finish(start(job, stop_in_the_final_save)) == 0
    assert said(job).read_text().endswith(f"tutelage: {job.out} is finished; stopped after it\n")
    assert (job.out / "done.json").exists()


def test_a_run_that_ended_early_stays_ended(toy, tuned, scorer, tmp_path):
    """The KL budget was spent, then the process was killed: no further update is done."""
    job = ppo_job(toy, tuned, scorer, tmp_path / "run", updates=40, kl={"coef": 0.0, "budget": 0.05}, **SAVING)
    assert finish(start(job, before_it_says_that_it_is_done)) == -signal.SIGKILL
    before = logged(job.out)
    assert before[-1]["kl"] > 0.05
    assert finish(start(job)) == 0
    assert logged(job.out) == before
    assert json.loads((job.out / "done.json").read_text())["stopped_by_kl_budget"]


# ---- intermediate checkpoints


def test_the_newest_checkpoints_and_the_best_stay(toy, base, tmp_path):
    """The best by held-out loss is what SFT keeps anyway: the same weights, found by two roads."""
    machine = MACHINE | {"checkpoint_every": 5, "keep_last": 2, "keep_best": "heldout_loss", "save_every": 0.004}
    job = sft_job(toy, base, tmp_path / "run", epochs=3, lr=2e-2, warmup=0, machine=machine)
    assert finish(start(job, before_it_says_that_it_is_done)) == -signal.SIGKILL
    assert finish(start(job)) == 0
    checkpoints = job.out / "checkpoints"
    measured = {row["step"]: row["heldout_loss"] for row in logged(job.out) if "heldout_loss" in row}
    best = min(measured, key=lambda step: measured[step])
    assert len(measured) == 3
    assert (checkpoints / "best").resolve() == checkpoints / f"step-{best:08d}"
    assert {path.name for path in checkpoints.iterdir()} == {
        "best", f"step-{best:08d}", *(f"step-{step:08d}" for step in sorted({50, 55, best})[-2:])
    }  # fmt: skip
    weights = [(folder / "model.safetensors").read_bytes() for folder in (checkpoints / "best", job.out / "checkpoint")]
    assert weights[0] == weights[1]
    lineage = json.loads((checkpoints / "best" / "lineage.json").read_text())
    assert (lineage["kind"], lineage["step"]) == ("sft", best)
    assert load_decoder(checkpoints / "step-00000055").config == load_decoder(base).config


def test_a_metric_to_keep_the_best_by_must_be_measured(toy, base, tuned, scorer, tmp_path):
    machine = MACHINE | {"keep_best": "gold"}
    with pytest.raises(RecipeError, match=r"keep_best: 'gold' is not measured here; there are heldout_loss$"):
        sft_job(toy, base, tmp_path / "sft", machine=machine).run()
    assert not (tmp_path / "sft").exists(), "it is said before the first step"
    by_reward = {"reward_model": scorer, "prompts": toy.folder / "prompts.jsonl"}
    machine = MACHINE | {"keep_best": "heldout_loss"}
    with pytest.raises(RecipeError, match="keep_best: the best by reward is the result here and kept anyway"):
        sft_job(toy, base, tmp_path / "sft", machine=machine, **by_reward).run()
    with pytest.raises(RecipeError, match="keep_best: nothing is measured on held-out data here"):
        ppo_job(toy, tuned, scorer, tmp_path / "ppo", machine=machine).run()


def test_intermediate_reward_models_are_centred_and_training_does_not_notice(toy, tuned, tmp_path):
    plain = reward_job(toy, tuned, tmp_path / "plain").run()
    every = reward_job(toy, tuned, tmp_path / "run", machine=MACHINE | {"checkpoint_every": 10}).run()
    assert (plain / "model.safetensors").read_bytes() == (every / "model.safetensors").read_bytes()
    for folder in [every, *(tmp_path / "run" / "checkpoints").glob("step-*")]:
        scorer = Assistant.load(folder, device="cpu", dtype="fp32")
        shown = [c.messages for c in read_conversations(toy.folder / "demonstrations.jsonl")]
        assert sum(scorer.scores(shown)) / len(shown) == pytest.approx(0.0, abs=1e-3)
