"""A team's own folder of prompts and rankings: what a round takes from it, and when it has something new."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tutelage.cli.app import main
from tutelage.errors import DataError, UsageError
from tutelage.loop import rounds, team, training
from tutelage.loop.rounds import Work
from tutelage.loop.settings import LoopSettings
from tutelage.records import Message, Prompt
from tutelage.settings import plain, write_yaml
from tutelage.store import models
from tutelage.store.database import Store
from tutelage.store.opening import open_store
from tutelage.store.prompts import import_prompts, prompts_to_rank

RANKING = {"prompt": "Where do the boats land?", "chosen": "At the pier.", "rejected": "No idea."}


def written(file: Path, *rows: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def work_in(store: Store, settings: LoopSettings, **record: Any) -> Work:
    made = models.start_round(store, {"simulated": False} | record)
    return Work(store, made, settings, training.read_start(settings), lambda text: None)


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "tutelage.db")
    yield opened
    opened.close()


def test_prompts_are_imported_once_without_personal_data(store):
    given = [
        Prompt(messages=(Message(role="user", content=text),)) for text in ("Hi?", "Write to ann@example.org", "Hi?")
    ]
    assert import_prompts(store, given) == 2
    assert import_prompts(store, given) == 0
    assert import_prompts(store, [*given, Prompt(messages=(Message(role="user", content="New?"),))]) == 1
    asked = sorted(one.prompt.messages[-1].text for one in prompts_to_rank(store, 99, held_out=0.5))
    assert (len(asked), asked[:2]) == (3, ["Hi?", "New?"])
    assert "example.org" not in asked[2]


def test_the_version_is_that_of_the_rows_alone(tmp_path):
    data = tmp_path / "data"
    assert team.version(None) == ""
    with pytest.raises(UsageError, match="data is not a folder"):
        team.version(data)
    data.mkdir()
    assert team.version(data) == ""
    written(data / "rankings.jsonl", RANKING)
    first = team.version(data)
    (data / "README.md").write_text("ours")
    assert team.version(data) == first
    written(data / "prompts-2.jsonl", {"prompt": "Hi?"})
    assert team.version(data) != first


def test_a_bad_row_is_named(tmp_path):
    file = written(tmp_path / "rankings.jsonl", RANKING, RANKING | {"chosen": 7})
    with pytest.raises(DataError, match=rf"{file.name}:2.*chosen"):
        list(team.rankings_of(tmp_path))


def test_rankings_alone_are_enough_for_a_round_and_once(store, settings, tmp_path):
    """Nobody has asked anything: the round goes on to training if the folder has something that no round has seen."""
    written(tmp_path / "data" / "rankings.jsonl", RANKING)
    here = settings.model_copy(update={"data": tmp_path / "data"})
    work = work_in(store, here, folder=str(tmp_path / "round-1"))
    assert rounds.choose_prompts(work)["state"] == "labelled"
    fields = rounds.export_all(work)
    assert fields["team"] == team.version(here.data)
    ranked = [json.loads(row) for row in (tmp_path / "round-1/data/rankings.jsonl").read_text("utf-8").splitlines()]
    asked = [row["prompt"]["messages"][-1]["content"] for row in ranked]
    assert RANKING["prompt"] in asked
    assert len(asked) == fields["rows"]["rankings"] > 1  # the start's are there too
    models.update_round(store, work.round.id, record=fields)
    with pytest.raises(UsageError, match="nothing to rank"):
        rounds.choose_prompts(work)


def test_what_is_held_out_is_not_trained_on_from_the_folder_either(store, settings, tmp_path):
    texts = [f"What is new in street {i}?" for i in range(24)]
    written(tmp_path / "data" / "prompts.jsonl", *({"prompt": text} for text in texts))
    written(tmp_path / "data" / "rankings.jsonl", *(RANKING | {"prompt": text} for text in texts))
    here = settings.model_copy(update={"data": tmp_path / "data"})
    work = work_in(store, here, folder=str(tmp_path / "round-1"))
    chosen = rounds.choose_prompts(work)["prompts"]
    assert chosen
    rounds.export_all(work)
    folder = tmp_path / "round-1"

    def asked(file: Path, within: str = "") -> set[str]:
        rows = [json.loads(row) for row in file.read_text("utf-8").splitlines()]
        return {(row[within] if within else row)["messages"][-1]["content"] for row in rows} & set(texts)

    held = asked(folder / "export" / "prompts_heldout.jsonl")
    assert held
    assert asked(folder / "data" / "rankings.jsonl", "prompt") == set(texts) - held
    assert asked(folder / "data" / "prompts.jsonl") == set(texts) - held


def git(at: Path, *words: str) -> None:
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "-c", "init.defaultBranch=main", *words], cwd=at, env=os.environ | who, check=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone, one commit behind its origin, which has rankings."""
    (tmp_path / "origin").mkdir()
    git(tmp_path / "origin", "init", "-q")
    git(tmp_path / "origin", "commit", "-q", "--allow-empty", "-m", "begin")
    git(tmp_path, "clone", "-q", "origin", "data")
    written(tmp_path / "origin" / "rankings.jsonl", RANKING)
    git(tmp_path / "origin", "add", ".")
    git(tmp_path / "origin", "commit", "-q", "-m", "rankings")
    return tmp_path / "data"


def test_pulling_brings_what_was_pushed_and_never_merges(clone, tmp_path):
    team.pull(clone)
    assert team.version(clone) == team.version(tmp_path / "origin") != ""
    git(clone, "commit", "-q", "--allow-empty", "-m", "here")
    git(tmp_path / "origin", "commit", "-q", "--allow-empty", "-m", "there")
    with pytest.raises(UsageError, match=r"git pull failed: .*fast-forward"):
        team.pull(clone)
    with pytest.raises(UsageError, match=r"git pull failed: .*not a git repository"):
        team.pull(written(tmp_path / "elsewhere" / "prompts.jsonl").parent)
    with pytest.raises(UsageError, match="--pull needs data"):
        team.pull(None)


@pytest.mark.slow
def test_pull_goes_round_once_for_what_is_new(clone, asked, settings, tmp_path, capsys):
    """The command, with simulated people; called again it sees that nothing is new, and begins no round."""
    store = shutil.copyfile(asked, tmp_path / "tutelage.db")
    recipe = tmp_path / "loop.yaml"
    recipe.write_text(write_yaml(plain(settings) | {"out": str(tmp_path / "loop"), "data": str(clone)}))
    words = ["loop", "run", "--recipe", str(recipe), "--store", str(store), "--simulate", "--pull"]
    assert main(words) == 0
    assert "round 1: " in capsys.readouterr().out
    assert main(words) == 0
    assert f"nothing new in {clone}" in capsys.readouterr().out
    opened = open_store(store)
    (only,) = models.list_rounds(opened)
    opened.close()
    assert only.record["team"] == team.version(clone)
    trained = (Path(only.record["folder"]) / "data" / "rankings.jsonl").read_text("utf-8")
    assert RANKING["prompt"] in trained
    assert main([*words, "--rounds", "2"]) == 2
    assert "leave --rounds out" in capsys.readouterr().err
