"""Whole rounds on a very small model: what they leave in the store, kills, erasure, the commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tutelage.cli.app import main
from tutelage.data.formats import read_prompts
from tutelage.errors import RecipeError, RunFolderError, TrainingError, UsageError
from tutelage.loop import gate, rounds, training
from tutelage.loop import work as work_
from tutelage.loop.rounds import STEPS, run_round
from tutelage.loop.settings import LoopSettings
from tutelage.recipes import steps
from tutelage.recipes.run import run_recipe
from tutelage.records import Completion, Message, Prompt
from tutelage.runs.folder import locked
from tutelage.settings import read_yaml, write_yaml
from tutelage.store import audit, erase, labels, models, people, prompts, tables, tasks
from tutelage.store.database import Store
from tutelage.store.opening import open_store

SILENT: Callable[[str], None] = lambda text: None  # noqa: E731


def copy_of(asked: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(asked, path)
    return path


@pytest.fixture(scope="module")
def done(asked: Path, settings: LoopSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after a whole round that nothing disturbed."""
    path = copy_of(asked, tmp_path_factory.mktemp("done") / "tutelage.db")
    store = open_store(path)
    run_round(store, settings, simulated=True, say=SILENT)
    store.close()
    return path


@pytest.fixture
def after(done: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of that store."""
    store = open_store(copy_of(done, tmp_path / "tutelage.db"))
    yield store
    store.close()


def the_round(store: Store) -> models.Round:
    (one,) = models.list_rounds(store)
    return one


def decided(store: Store, settings: LoopSettings, outcome: list[int]) -> models.Round:
    """The round again from before its verdict, as if the comparisons had come out like this."""
    models.update_round(store, the_round(store).id, state="compared", record={"outcome": outcome})
    return run_round(store, settings, simulated=True, say=SILENT)


# ---- a whole round


@pytest.mark.slow
def test_a_round_leaves_all_it_used_in_the_store_and_no_word_of_anybody(after):
    leaves_all_it_used(after)


def in_this_process(recipe: Mapping[str, Any], settings: LoopSettings, say: Callable[[str], None]) -> None:
    """What ``training.run`` does in a process of its own."""
    values = steps.Recipe.model_validate(recipe)
    run_recipe(values, steps.plan(values))


@pytest.mark.slow
def test_so_does_one_on_postgresql(database, settings, tmp_path, monkeypatch):
    """Whose processes are those of the others; here the store is what differs."""
    monkeypatch.setattr(training, "run", in_this_process)
    store = open_store(database, ledger=tmp_path / "ledger.jsonl")
    with store.write() as db:
        for table in reversed(tables.metadata.sorted_tables):
            db.execute(table.delete())
    try:
        run_round(store, settings.model_copy(update={"out": tmp_path / "loop"}), simulated=True, say=SILENT)
        leaves_all_it_used(store)
    finally:
        store.close()


def leaves_all_it_used(after: Store) -> None:
    one = the_round(after)
    record = one.record
    assert one.state in ("promoted", "refused")
    assert one.state == ("promoted" if record["verdict"]["promote"] else "refused")
    assert record["judge"] == "people"
    assert sum(record["outcome"]) == record["plan"]["comparisons"] == 5
    planned = gate.plan(0.95, 0.7)
    assert (record["judged"]["by"], sum(record["judged"]["outcome"])) == ("world", planned.comparisons)
    assert record["power_at_60_percent"] == pytest.approx(0.6**5)
    assert record["tasks"] == record["rankings"] == record["answers"]["prompts"] > 0
    assert record["rows"]["rankings"] > 8  # the start's are among them
    candidate = models.get_model(after, record["candidate"])
    assert candidate.parents == (record["sft"], record["reward_model"])
    assert (Path(candidate.folder) / "model.safetensors").exists()
    said = json.dumps(record)
    with after.read() as db:
        rows = db.execute(select(tables.prompts)).all()
    asked = [row.prompt["messages"][-1]["content"] for row in rows]
    assert sum(row.author_id is not None for row in rows) == 16  # others came with the gate
    assert not [text for text in asked if text in said]


@pytest.mark.slow
def test_held_out_questions_are_neither_trained_on_nor_lost(after):
    folder = Path(the_round(after).record["folder"])
    exported = {json.loads(row)["messages"][-1]["content"] for row in rows_of(folder / "export/prompts_heldout.jsonl")}
    trained = {json.loads(row)["messages"][-1]["content"] for row in rows_of(folder / "data/prompts.jsonl")}
    ranked = {json.loads(row)["prompt"]["messages"][-1]["content"] for row in rows_of(folder / "data/rankings.jsonl")}
    gated = {json.loads(row)["messages"][-1]["content"] for row in rows_of(folder / "data/gate.jsonl")}
    assert exported
    assert exported.isdisjoint(trained | ranked)
    assert gated.isdisjoint(trained)


def rows_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.mark.slow
def test_erasing_somebody_names_the_models_that_saw_their_words(after):
    record = the_round(after).record
    asker = people.find_user(after, "simulated asker 000")
    assert asker is not None
    found = erase.erase_user(after, asker.id, actor="test")
    assert {model.hash for model in found.models} == {record["reward_model"], record["candidate"]}
    assert [folder for _, folder in found.exports] == [f"{record['folder']}/export"]


@pytest.mark.slow
def test_whoever_is_erased_during_training_is_in_no_model_that_follows(after, settings, tmp_path):
    one, folder = the_round(after), tmp_path / "round-1"
    shutil.copytree(one.record["folder"], folder)
    models.update_round(after, one.id, record={"folder": str(folder)})
    asker = people.find_user(after, "simulated asker 000")
    assert asker is not None
    with after.read() as db:
        asked = [row.prompt for row in db.execute(select(tables.prompts)) if row.author_id == asker.id]
    words = [prompt["messages"][-1]["content"] for prompt in asked]
    assert all(words)
    erase.erase_user(after, asker.id, actor="test")
    work = rounds.Work(after, the_round(after), settings, training.read_start(settings), SILENT)
    assert rounds.train(work) == {"state": "labelled"}
    assert not [name for name in ("export", "data", "reward", "ppo_ptx") if (folder / name).exists()]
    rounds.export_all(work)
    exported = "".join(file.read_text() for file in (folder / "export").iterdir())
    assert exported
    assert not [text for text in words if json.dumps(text)[1:-1] in exported or text in exported]


@pytest.mark.slow
def test_a_model_that_wins_is_promoted_once_and_can_be_rolled_back(after, settings, capsys):
    one, path = the_round(after), str(after.path)
    n = one.record["plan"]["comparisons"]
    assert decided(after, settings, [n, 0, 0]).state == "promoted"
    assert decided(after, settings, [n, 0, 0]).state == "promoted"  # killed between promotion and record
    assert [p.model for p in models.promotion_history(after)] == [one.record["candidate"], one.record["serving"]]
    assert main(["loop", "status", "--store", path]) == 0
    said = capsys.readouterr().out
    assert f"serving: {one.record['folder']}/ppo_ptx/checkpoint ({one.record['candidate'][:12]}), promoted" in said
    assert f"round 1: promoted; files: {one.record['folder']} (simulated people)" in said
    assert "judged by: people" in said
    asked = tasks.progress(after, one.id, gate=True).total()  # none where the two models answered everything alike
    assert (f"people's blind comparisons: {asked} of {asked}\n" in said) == (asked > 0)
    assert main(["loop", "rollback", "--reason", "rude", "--store", path]) == 0
    assert "rolled back" in capsys.readouterr().out
    assert models.promoted(after) == models.get_model(after, one.record["serving"])
    assert audit.entries(after, 1)[0].action == "roll back"
    assert main(["loop", "rollback", "--store", path]) == 2


@pytest.mark.slow
def test_the_status_of_a_round_at_work_is_the_last_line_of_what_works(after, capsys):
    one = the_round(after)
    for state, log in (("collected", "answers.log"), ("exported", "../round-1.log"), ("planned", "gate.log")):
        models.update_round(after, one.id, state=state)
        assert main(["loop", "status", "--store", str(after.path)]) == 0
        said = re.search(r"  last said: (\S.*) \((.*)\)\n", capsys.readouterr().out)
        assert said
        assert Path(said[2]).resolve() == (Path(one.record["folder"]) / log).resolve()
        assert said[1] in " ".join(Path(said[2]).read_text().split())


@pytest.mark.slow
def test_a_model_that_loses_is_refused_and_nothing_is_promoted(after, settings):
    """What training on reversed rankings does to the outcome; that it does so is for `make proof`."""
    n = the_round(after).record["plan"]["comparisons"]
    one = decided(after, settings, [0, 0, n])
    assert one.state == "refused"
    assert len(models.promotion_history(after)) == 1
    assert "not shown to be better" in one.record["verdict"]["reasons"][0]


@pytest.mark.slow
def test_a_model_is_not_promoted_over_one_that_it_was_not_compared_with(after, settings):
    models.register_model(after, "other", "runs/other")
    models.promote(after, "other", actor="somebody")
    one = decided(after, settings, [the_round(after).record["plan"]["comparisons"], 0, 0])
    assert one.state == "refused"
    assert "was not compared with it" in one.record["verdict"]["reasons"][0]


# ---- kills


def in_a_process(job: Callable[[], Any]) -> int:
    """Run something in a process of its own; its exit code, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def go_on(path: Path, settings: LoopSettings, *, until: str = "", inside: str = "", group: bool = False) -> int:
    """Run the round in a process that is killed when a step is done and not yet recorded (``until``: the state that it would
    lead to), or once a step of training has begun (``inside``: its folder) alone or with its ``group``: the training too."""

    def job() -> None:
        update = models.update_round

        def killed(store: Store, round_id: str, **more: Any) -> models.Round:
            if more.get("state") == until:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(store, round_id, **more)

        def watch() -> None:
            while not (settings.out / "round-1" / inside / "lineage.json").exists():
                time.sleep(0.01)
            (os.killpg if group else os.kill)(os.getpid(), signal.SIGKILL)

        models.update_round = killed
        if inside:
            threading.Thread(target=watch, daemon=True).start()
        store = open_store(path)
        run_round(store, settings, simulated=True, say=SILENT)

    return in_a_process(job)


@pytest.mark.slow
def test_a_round_that_is_killed_everywhere_ends_the_same(asked, done, settings, tmp_path):
    """At the end of each step, before it is recorded; inside PPO, with the process that trains; and inside the gate, without it."""
    path = copy_of(asked, tmp_path / "tutelage.db")
    again = settings.model_copy(update={"out": tmp_path / "loop"})
    boundaries = [doing.after for state, doing in STEPS.items() if state not in ("exported", "planned", "compared")]
    kills: list[dict[str, Any]] = [{"until": state} for state in boundaries]
    kills.insert(boundaries.index("planned"), {"inside": "ppo_ptx", "group": True})
    kills += [{"inside": "gate/evaluate"}]
    for kill in kills:
        assert go_on(path, again, **kill) == -signal.SIGKILL, kill
    assert go_on(path, again, until=the_state(done)) == -signal.SIGKILL
    assert go_on(path, again) == 0
    assert essence(path) == essence(done)
    store, undisturbed = open_store(path), open_store(done)
    assert len(models.promotion_history(store)) == len(models.promotion_history(undisturbed))
    assert tasks.progress(store) == tasks.progress(undisturbed)
    store.close()
    undisturbed.close()


def the_state(path: Path) -> str:
    store = open_store(path)
    state = the_round(store).state
    store.close()
    return state


def essence(path: Path) -> dict[str, Any]:
    """The record without what differs by nature: places, and what has the random ids of tasks in it."""
    store = open_store(path)
    one = the_round(store)
    store.close()
    record = {k: v for k, v in one.record.items() if k not in ("folder", "export")}
    return record | {"state": one.state, "settings": record["settings"] | {"out": ""}}


# ---- people


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "tutelage.db")
    yield store
    store.close()


def work_of(store: Store, settings: LoopSettings, **record: Any) -> rounds.Work:
    made = models.start_round(store, {"simulated": False} | record)
    return rounds.Work(store, made, settings, training.read_start(settings), SILENT)


def test_a_round_goes_on_when_enough_people_have_ranked(empty, settings):
    work = work_of(empty, settings.model_copy(update={"enough": 0.5}))
    for i in range(4):
        prompt = prompts.add_prompt(empty, Prompt(messages=(Message(role="user", content=f"q{i}"),)))
        tasks.create_task(empty, prompt, [Completion(text="a"), Completion(text="b")], round_id=work.round.id)
    ann = people.create_user(empty, "ann").id
    people.give_consent(empty, ann, "1")

    def rank_two() -> None:
        for i in range(2):
            lease = tasks.lease(empty, ann)
            assert lease is not None
            labels.submit(empty, ann, lease.task_id, [1, 2], key=str(i), seconds=1)

    person = threading.Timer(0.2, rank_two)
    person.start()
    work_.POLL, poll = 0.05, work_.POLL
    try:
        assert rounds.wait_for_labels(work) == {"rankings": 2}
    finally:
        work_.POLL = poll
        person.join()
    assert tasks.progress(empty) == {"ranked": 2, "withdrawn": 2}


def test_without_questions_there_is_no_round(empty, settings, tmp_path):
    with pytest.raises(UsageError, match="nobody who agrees has asked anything new"):
        rounds.choose_prompts(work_of(empty, settings, folder=str(tmp_path)))


def test_two_loops_do_not_run_one_round_at_once(empty, settings, tmp_path):
    here = settings.model_copy(update={"out": tmp_path / "loop"})
    here.out.mkdir()
    with locked(here.out), pytest.raises(RunFolderError, match="is held by process"):
        run_round(empty, here, simulated=True, say=SILENT)


# ---- what a round starts from


def test_of_a_start_that_trained_nothing_the_model_that_ppo_starts_from_serves_first(settings, start, tmp_path):
    assert training.first_model(settings) == start / "sft" / "checkpoint"  # trained there, and named as a step
    data, model = start / "labels" / "rankings.jsonl", start / "sft" / "checkpoint"
    steps = {
        "reward": {"kind": "reward", "inputs": {"checkpoint": str(model), "rankings": str(data)}},
        "ppo_ptx": {
            "kind": "ppo",
            "inputs": {
                "checkpoint": str(model),
                "reward_model": "reward",
                "prompts": str(start / "world" / "prompts.jsonl"),
            },
        },
    }
    recipe = {"name": "Nothing trained", "out": str(tmp_path), "steps": steps}
    (tmp_path / "recipe.yaml").write_text(write_yaml(recipe))
    untrained = settings.model_copy(update={"start": tmp_path})
    assert training.first_model(untrained) == model
    elsewhere = write_yaml(recipe).replace(str(model), "Org/on-the-hub")
    (tmp_path / "recipe.yaml").write_text(elsewhere)
    with pytest.raises(UsageError, match="Org/on-the-hub, which the rounds start from, is not a model's folder"):
        training.first_model(untrained)


def test_the_loop_around_smollm2_starts_from_what_ships(start, tmp_path, monkeypatch):
    monkeypatch.chdir(steps.shipped_recipe("loop.yaml").parents[1])
    model = str(start / "sft" / "checkpoint")
    recipe = steps.read_recipe(
        steps.shipped_recipe("smollm2-start.yaml"),
        {
            "out": str(tmp_path),
            "steps": {
                "reward": {"inputs": {"checkpoint": model}},
                "ppo": {"inputs": {"checkpoint": model}},
                "evaluate": {"inputs": {"models": {"start": model}}},
            },
        },
    )
    run_recipe(recipe, steps.select(steps.plan(recipe), only=("prepare",)))
    settings = LoopSettings.model_validate(
        read_yaml(steps.shipped_recipe("smollm2-loop.yaml")) | {"start": str(tmp_path)}
    )
    found = training.read_start(settings)
    assert training.first_model(settings) == Path(model)
    assert found.rankings_heldout.exists()  # the judge learns from these
    assert len(list(read_prompts(found.prompts_heldout))) >= settings.gate.people
    assert len(list(read_prompts(found.prompts))) >= found.ppo["batch_size"]


# ---- what a round trains


def test_most_answers_are_by_the_serving_model_and_some_by_the_one_before(settings, tmp_path):
    start = training.read_start(settings)
    both = {"serving": tmp_path / "a", "earlier": tmp_path / "b"}
    steps = training.answers_recipe(settings, start, tmp_path, both, 2)["steps"]
    assert {name: step["completions"] for name, step in steps.items()} == {"serving": 2, "earlier": 1}
    assert steps["serving"]["seed"] != steps["earlier"]["seed"]
    alone = training.answers_recipe(settings, start, tmp_path, {"serving": tmp_path}, 2)["steps"]
    assert alone["serving"]["completions"] == 3


def test_a_round_without_a_world_trains_a_judge_on_held_out_rankings_alone(settings, tmp_path):
    start = replace(training.read_start(settings), world=None)
    steps = training.training_recipe(settings, start, tmp_path, 1)["steps"]
    assert list(steps) == ["reward", "judge", "ppo_ptx"]
    assert steps["judge"]["inputs"]["rankings"] == str(tmp_path / "data" / "rankings_heldout.jsonl")
    assert steps["reward"]["inputs"]["rankings"] == str(tmp_path / "data" / "rankings.jsonl")
    assert "world" not in steps["ppo_ptx"]["inputs"]
    assert steps["ppo_ptx"]["inputs"]["checkpoint"] == str(start.sft)
    step = training.gate_recipe(settings, start, tmp_path, {}, 1)["steps"]["evaluate"]
    assert step["inputs"]["reward_model"] == str(tmp_path / "judge" / "checkpoint")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ppo": "ppo"}, "'ppo' is no such step of the start's recipe; did you mean 'ppo_ptx'"),
        ({"reward": "sft"}, "'sft' is a step of kind sft"),
        ({"steps": {"sft": {}}}, "a round has the steps reward and ppo_ptx alone"),
        ({"steps": {"ppo_ptx": {"updates": -1}}}, "updates should be"),
        ({"start": Path("missing")}, "is not the run of a recipe"),
    ],
)
def test_mistakes_are_found_before_anything_is_kept(empty, settings, tmp_path, change, said):
    wrong = settings.model_copy(update={"out": tmp_path / "loop"} | change)
    with pytest.raises((UsageError, RecipeError), match=said):
        run_round(empty, wrong, simulated=True, say=SILENT)
    assert models.list_rounds(empty) == []
    assert models.promoted(empty) is None


def test_a_bound_that_no_model_could_keep_is_refused_before_anybody_ranks(empty, settings, start, tmp_path):
    recipe = read_yaml(start / "recipe.yaml")
    del recipe["steps"]["evaluate"]["inputs"]["heldout_text"]
    (tmp_path / "recipe.yaml").write_text(write_yaml(recipe | {"out": str(start)}))
    wrong = settings.model_copy(update={"start": tmp_path, "out": tmp_path / "loop"})
    for name in ("sft", "world", "labels"):
        (tmp_path / name).symlink_to(start / name)
    with pytest.raises(UsageError, match=r"gate\.alignment_tax: the start names no held-out text"):
        run_round(empty, wrong, simulated=True, say=SILENT)
    assert models.list_rounds(empty) == []


def test_training_that_fails_says_why_and_where_to_read_on(settings, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'tutelage: the disk is full'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(training.sys, "executable", str(program))
    recipe = {"name": "a try", "out": str(tmp_path / "run"), "steps": {}}
    with pytest.raises(TrainingError, match=r"a try: the disk is full \(all that it said: .*run\.log\)"):
        training.run(recipe, settings, SILENT)


def test_the_commands_want_a_store_that_is_there(tmp_path, capsys):
    for words in (["run"], ["status"], ["rollback"]):
        assert main(["loop", *words, "--store", str(tmp_path / "missing.db")]) == 2
        assert "there is no store here" in capsys.readouterr().err
    assert main(["loop", "run", "--gate.alpha", "2"]) == 2
    assert "--gate.alpha" in capsys.readouterr().err
