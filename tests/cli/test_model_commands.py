"""`tutelage generate` and `eval` on files that have no prompts, or too long ones, and the text that a model continues."""

from __future__ import annotations

import json

import pytest

from tutelage.cli import app as cli
from tutelage.data.formats import read_answers

ASKED = {"messages": [{"role": "user", "content": "The cup is red. What colour is the cup?"}]}
LONG = {"messages": [{"role": "user", "content": "red " * 100_000}]}


@pytest.fixture
def run(capsys, tmp_path):
    def run(*words, rows=()):
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = cli.main([*map(str, words), "--max_tokens", "4", "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


NOTHING_TO_ASK = [
    [{"messages": [{"role": "assistant", "content": "Welcome."}]}],
    [LONG],
    [{"prompt": []}],
    [],
]


@pytest.mark.parametrize("rows", NOTHING_TO_ASK)
@pytest.mark.parametrize("command", ["generate", "eval"])
def test_a_file_without_prompts_is_one_line_and_nothing_is_written(run, tuned, scorer, tmp_path, rows, command):
    path, out = tmp_path / "p.jsonl", tmp_path / "answers.jsonl"
    words = {
        "generate": ["generate", tuned, "--prompts", path, "--out", out],
        "eval": ["eval", tuned, tuned, "--prompts", path, "--reward_model", scorer],
    }
    code, _, said = run(*words[command], rows=rows)
    assert (code, said.count("\n")) == (2, 1)
    assert str(path) in said
    assert not out.exists()


def test_a_prompt_that_is_too_long_is_left_out_and_counted(run, tuned, scorer, tmp_path):
    path, out = tmp_path / "p.jsonl", tmp_path / "answers.jsonl"
    code, said, _ = run("generate", tuned, "--prompts", path, "--out", out, rows=[ASKED, LONG, ASKED])
    assert code == 0
    assert f"{path}: left out 1 x too long" in said
    assert "2 prompts with 1 answers each" in said
    assert [answers.prompt.messages[0].text[:7] for answers in read_answers(out)] == ["The cup"] * 2
    words = ["eval", tuned, tuned, "--prompts", path, "--reward_model", scorer]
    code, said, _ = run(*words, rows=[ASKED, LONG])
    assert code == 0
    assert "of 1 prompts" in said


def test_a_bad_row_of_prompts_has_its_place_and_a_way_past_it(run, tuned, tmp_path):
    words = ["generate", tuned, "--prompts", tmp_path / "p.jsonl", "--out", tmp_path / "answers.jsonl"]
    rows = [ASKED, {"messages": [{"role": "robot", "content": "x"}, *ASKED["messages"]]}]
    code, _, said = run(*words, rows=rows)
    assert code == 2
    assert "p.jsonl:2: field 'messages.0.role'" in said
    assert run(*words, "--on_bad", "skip", rows=rows)[0] == 0


@pytest.mark.parametrize("text", ["The cup is", "The cup is ", "The\ncup"])
def test_a_text_is_continued_with_the_space_between(run, base, text):
    code, said, _ = run("generate", base, "--text", text, "--temperature", "0")
    assert code == 0
    assert said.startswith(text)
    from tutelage.assistant.assistant import Assistant

    model = Assistant.load(base, device="cpu")
    following = model.generate(text, temperature=0.0, max_tokens=4)
    assert said == text + following + "\n"
    ids = model.tokenizer.encode(text)
    assert model.tokenizer.decode([*ids, *model.tokenizer.encode(following)]) == text + following


def test_a_text_is_continued_n_times_and_ends_before_what_is_given(run, base):
    from tutelage.assistant.assistant import Assistant

    text = "The cup is"
    code, said, _ = run("generate", base, "--text", text, "--n", "3", "--seed", "5")
    assert code == 0
    several = Assistant.load(base, device="cpu").generate(text, n=3, seed=5, max_tokens=4)
    assert said == "\n\n".join(text + one for one in several) + "\n"
    whole = several[0].strip()
    code, said, _ = run("generate", base, "--text", text, "--seed", "5", "--stop", "zzz", "--stop", whole[1:3])
    assert code == 0
    assert said.strip() == (text + several[0][: several[0].index(whole[1:3])]).strip()
