"""What each stage does with bad rows of each of its inputs; and which demonstrations centre a reward model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from random_start import Start, make_start, talk
from test_direct_wiring import direct_job
from test_grpo_wiring import grpo_job
from test_ppo_wiring import ppo_job
from test_stage_wiring import DEMONSTRATIONS, RANKINGS, pretrain_job, reward_job, sft_job
from toy_task import Job

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError
from tutelage.records import Conversation, Document, Message, Prompt
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.reward import RewardSettings, demonstration_ids

REFUSING = """{%- for m in messages -%}{%- if m.role == "system" -%}{{ raise_exception("no system messages here") }}{%- endif -%}
{{- bos_token + m.role + ": " + m.content + eos_token -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{ bos_token + "assistant: " }}{%- endif -%}"""
SYSTEM = Message(role="system", content="Be kind.")


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    """Checkpoints whose chat template refuses system messages, and good files."""
    start = make_start(tmp_path_factory.mktemp("bad"))
    refusing = Tokenizer.load(start.folder / "sft", chat_template=REFUSING)
    for name in ("sft", "reward"):
        refusing.save(start.folder / name)
    for name, records in (("demonstrations", DEMONSTRATIONS), ("heldout", DEMONSTRATIONS), ("rankings", RANKINGS)):
        write_jsonl(start.folder / f"{name}.jsonl", records)
    write_jsonl(start.folder / "asked.jsonl", [talk(RANKINGS[0].prompt.messages[0].text, "yes and no")])
    write_jsonl(start.folder / "chinese.jsonl", [Document(text="红色的门，蓝色的帽子。") for _ in range(3)])
    return Start(start.folder, refusing)


def with_system(record: Any) -> Any:
    """The same record behind a system message."""
    if hasattr(record, "messages"):
        return record.model_copy(update={"messages": (SYSTEM, *record.messages)})
    return record.model_copy(update={"prompt": with_system(record.prompt)})


STAGES: dict[str, Callable[..., Job]] = {
    "pretrain": lambda begin, out, **more: pretrain_job(begin, out, steps=1, **more),
    "sft": lambda begin, out, **more: sft_job(begin, out, epochs=1, ptx={"coef": 0.5}, **more),
    "sft by reward": lambda begin, out, **more: sft_job(
        begin, out, **{"epochs": 1, "max_tokens": 4, "reward_model": begin.folder / "reward", **more}
    ),
    "reward": lambda begin, out, **more: reward_job(begin, out, epochs=1, **more),
    "ppo": lambda begin, out, **more: ppo_job(
        begin, out, updates=1, scorers={}, batch_size=4, minibatch=4, ptx={"coef": 0.5}, **more
    ),
    "direct": lambda begin, out, **more: direct_job(begin, out, **{"epochs": 1, **more}),
    "diamante": lambda begin, out, **more: direct_job(
        begin, out, **{"epochs": 1, "loss": "diamante", "demonstrations": begin.folder / "asked.jsonl", **more}
    ),
    "grpo": lambda begin, out, **more: grpo_job(begin, out, updates=1, ptx={"coef": 0.5}, **more),
}  # fmt: skip
INPUTS = [
    ("pretrain", "text", "text", None),
    ("sft", "demonstrations", "demonstrations", DEMONSTRATIONS[0]),
    ("sft", "heldout", "heldout", DEMONSTRATIONS[0]),
    ("sft", "text", "text", None),
    ("sft by reward", "prompts", "prompts", Prompt(messages=(Message(role="user", content="?"),))),
    ("reward", "rankings", "rankings", RANKINGS[0]),
    ("reward", "heldout", "rankings", RANKINGS[0]),
    ("reward", "demonstrations", "demonstrations", DEMONSTRATIONS[0]),
    ("ppo", "prompts", "prompts", Prompt(messages=(Message(role="user", content="?"),))),
    ("ppo", "text", "text", None),
    ("direct", "rankings", "rankings", RANKINGS[0]),
    ("direct", "heldout", "rankings", RANKINGS[0]),
    ("diamante", "demonstrations", "asked", DEMONSTRATIONS[0]),
    ("grpo", "prompts", "prompts", Prompt(messages=(Message(role="user", content="?"),))),
    ("grpo", "text", "text", None),
]


def spoilt(begin: Start, folder: Path, name: str, role: str, *rows: str) -> tuple[Path, Any]:
    """A copy of a good file with more rows, and the input that names it."""
    path = folder / f"{name}.jsonl"
    folder.mkdir()
    shutil.copy(begin.folder / f"{name}.jsonl", path)
    with path.open("a") as file:
        file.writelines(f"{row}\n" for row in rows)
    return path, {"one": path} if role == "text" else path


WRONG = '{"messages": 3, "text": 4, "prompt": 5}'


@pytest.mark.parametrize(("stage", "role", "name", "record"), INPUTS)
def test_a_wrong_row_and_one_that_the_template_refuses_have_their_place_and_a_way_past_them(
    begin, tmp_path, capsys, stage, role, name, record
):
    bad = {"": WRONG}
    if record:
        bad |= {".*no system messages here": with_system(record).model_dump_json(exclude_defaults=True)}
    for number, (said, row) in enumerate(bad.items()):
        path, given = spoilt(begin, tmp_path / f"only{number}", name, role, row)
        count = len(path.read_text().splitlines())
        with pytest.raises(DataError, match=rf"{name}\.jsonl:{count}: {said}"):
            STAGES[stage](begin, tmp_path / f"stopped{number}", **{role: given}).run()
    path, given = spoilt(begin, tmp_path / "all", name, role, *bad.values())
    capsys.readouterr()
    checkpoint = STAGES[stage](begin, tmp_path / "run", **{role: given}, on_bad="skip").run()
    done, printed = json.loads((checkpoint.parent / "done.json").read_text()), capsys.readouterr().out
    if role in ("demonstrations", "rankings", "prompts") and (stage, role) not in (
        ("reward", "demonstrations"), ("sft by reward", "prompts"), ("diamante", "demonstrations"),
    ):  # fmt: skip
        assert done["left_out"]["refused by the chat template"] == 1
        assert f"{path}: " in printed
        assert "1 x refused by the chat template" in printed
    if role == "heldout" and stage in ("reward", "direct"):
        assert done["heldout_left_out"] == {"refused by the chat template": 1}


def test_training_rankings_of_held_out_prompts_are_warned_of(begin, tmp_path, capsys):
    path = tmp_path / "heldout.jsonl"
    write_jsonl(path, [RANKINGS[0]])
    reward_job(begin, tmp_path / "run", heldout=path).run()
    same = sum(one.prompt.messages == RANKINGS[0].prompt.messages for one in RANKINGS)
    assert f"warning: {same} rankings of " in capsys.readouterr().out
    assert same > 0


def test_rankings_of_which_none_is_left_are_named(begin, tmp_path):
    path = tmp_path / "tied.jsonl"
    write_jsonl(path, [RANKINGS[0].model_copy(update={"ranks": (1, 1, 1)})])
    with pytest.raises(DataError, match=r"tied\.jsonl: no ranking with a preference fits in .* left out 1 x all tied"):
        reward_job(begin, tmp_path / "run", rankings=path).run()


def answered(count: int) -> list[Conversation]:
    """Conversations of one length, and before each one that waits for an answer."""
    return [
        one for i in range(count) for one in (talk(f"{i % 10}{i // 10}", "ab", "c"), talk(f"{i % 10}{i // 10}", "ab"))
    ]


def test_the_demonstrations_that_centre_a_reward_model_are_drawn_by_the_seed_and_end_with_an_answer(begin, tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    write_jsonl(path, answered(30))
    longest = max(len(ids) for ids in demonstration_ids(path, begin.tokenizer, 999, RewardSettings()))

    def drawn(seed: int, most: int, longest: int = longest) -> list[list[int]]:
        return demonstration_ids(path, begin.tokenizer, longest, RewardSettings(seed=seed), most)

    every = drawn(0, 99)
    assert (len(every), len(drawn(0, 512)), len(drawn(0, 4))) == (30, 30, 4)
    assert all(ids[-1] == begin.tokenizer.end_id for ids in every)
    assert drawn(0, 4) == drawn(0, 4) == every[:4]
    assert sorted(drawn(1, 99)) == sorted(every)
    assert drawn(1, 4) != drawn(0, 4)
    with pytest.raises(
        DataError, match=rf"demonstrations\.jsonl: no demonstration ends .* fits in {longest - 1} tokens"
    ):
        drawn(0, 4, longest - 1)
