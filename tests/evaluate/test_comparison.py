"""The step that compares models: win rates, the shots of base models, and the files it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_task import right

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import read_rankings
from tutelage.errors import DataError, UsageError
from tutelage.evaluate import compare
from tutelage.evaluate import measure as measure_module
from tutelage.evaluate.compare import EvaluateInputs, EvaluateSettings, add_win_rates, in_words, main, sample_rows
from tutelage.evaluate.measure import Measured, divergence, shots_like
from tutelage.model.likelihood import negative_log_likelihood
from tutelage.records import Answers, Completion, Conversation, ImagePart, Message, Prompt, TextPart, ToolCall


def measured(gold: list[float] | None, reward: list[float] | None = None) -> Measured:
    asked = [Prompt(messages=(Message(role="user", content=f"{i}?"),)) for i in range(len(gold or reward or []))]
    answers = [Answers(prompt=prompt, completions=(Completion(text="a"),)) for prompt in asked]
    return Measured(answers, gold, reward)


def test_equal_scores_tie_and_a_small_difference_wins_but_not_clearly():
    results = {"before": measured([0.5, 0.5, 0.5, 0.5]), "after": measured([0.5, 0.55, 0.9, 0.1])}
    add_win_rates(results, ["before"], clear=0.10)
    figures = results["after"].figures
    assert figures["record_vs_before"] == {"wins": 2, "ties": 1, "losses": 1}
    assert figures["win_rate_vs_before"] == pytest.approx(2.5 / 4)
    assert figures["clear_record_vs_before"] == {"wins": 1, "ties": 2, "losses": 1}
    assert figures["clear_win_rate_vs_before"] == 0.5
    assert results["before"].figures["win_rate_vs_before"] == 0.5


def test_a_reward_models_scores_have_no_clear_difference():
    results = {"before": measured(None, [0.0]), "after": measured(None, [0.01])}
    add_win_rates(results, ["before"], clear=0.10)
    assert results["after"].figures["win_rate_vs_before"] == 1.0
    assert "clear_win_rate_vs_before" not in results["after"].figures


def chat(*texts: str, **meta: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)), meta=meta)


def test_shots_are_of_the_family_and_language_dialogues_of_two_turns_too():
    follow_up = [chat("a?", "b.", f"{i}?", "c.", family="follow_up", language="zh") for i in range(5)]
    stories = [chat("tell", "once", family="story", language="zh") for _ in range(5)]
    english = [chat("a?", "b.", f"{i}?", "c.", family="follow_up", language="en") for i in range(5)]
    choose = shots_like([*stories, *english, *follow_up], 2, 0)
    asked = Prompt(messages=follow_up[0].messages[:3], meta={"family": "follow_up", "language": "zh"})
    assert len(choose(asked)) == 2
    assert all(shot in follow_up[1:] for shot in shots_like(follow_up, 5, 0)(asked))  # the first would show the answer
    assert choose(asked) == choose(asked)
    assert len({str(shots_like(follow_up, 2, seed)(asked)) for seed in range(9)}) > 1
    others = [asked.model_copy(update={"messages": (Message(role="user", content=f"{i}?"),)}) for i in range(9)]
    assert len({str(choose(other)) for other in others}) > 1  # each prompt has its own


def test_shots_have_at_most_five_messages_and_six_hundred_characters():
    short = [chat("q" * 599, "a"), chat("?", "a", "?", "a", "?")]
    choose = shots_like([*short, chat("q" * 600, "a"), chat("?", "a", "?", "a", "?", "a")], 9, 0)
    chosen = choose(Prompt(messages=(Message(role="user", content="x"),)))
    assert sorted(map(str, chosen)) == sorted(map(str, short))


def test_shots_of_unknown_families_or_long_dialogues_are_the_shortest_there_are():
    long = [chat("q" * (700 + i), "a") for i in range(100)]
    choose = shots_like(long, 3, 0)
    chosen = choose(Prompt(messages=(Message(role="user", content="x"),), meta={"family": "never seen"}))
    assert len(chosen) == 3
    assert all(shot in long[:64] for shot in chosen)


def test_samples_show_messages_as_text_with_their_parts_and_tool_calls():
    parts = (TextPart(text="What is "), ImagePart(image="hat.png"), TextPart(text="?"))
    call = Message(role="assistant", content="Let me see.", tool_calls=(ToolCall(name="look", arguments={"at": "帽"}),))
    asked = (Message(role="user", content=parts), call, Message(role="tool", content="A hat."))
    one = Measured([Answers(prompt=Prompt(messages=asked), completions=(Completion(text="A hat."),))])
    (row,) = sample_rows({"one": one})
    assert [message["content"] for message in row["prompt"]] == [
        "What is [hat.png]?", 'Let me see.\nlook({"at": "帽"})', "A hat.",
    ]  # fmt: skip
    assert in_words(call.model_copy(update={"content": ""})) == 'look({"at": "帽"})'


def test_divergence_equals_that_of_single_rows_and_pads_little(base, tuned, monkeypatch):
    policy, reference = (Assistant.load(folder, device="cpu", dtype="fp32") for folder in (tuned, base))
    lengths = [3] * 20 + [100]
    asked = [Prompt(messages=(Message(role="user", content="hat " * n),)) for n in lengths]
    answers = [Answers(prompt=prompt, completions=(Completion(text="red."),)) for prompt in asked]
    alone = [divergence(policy, reference, [item]) for item in answers]
    shapes = []

    def spy(model, ids, *rest):
        shapes.append(ids.shape)
        return negative_log_likelihood(model, ids, *rest)

    monkeypatch.setattr(measure_module, "negative_log_likelihood", spy)
    assert divergence(policy, reference, answers) == pytest.approx(sum(alone) / len(alone), rel=1e-4)
    longest = max(width for _, width in shapes)
    # One forward pass of all rows would take longest * 21 places for each of the two models.
    assert sum(rows * width for rows, width in shapes) < longest * 21 * 2 / 2


# ---- the step


@dataclass(frozen=True)
class Colour:
    """The toy task's verdict: the right colour, and half the score for an answer that was cut off."""

    score: float
    success: float


def judge(prompt: Prompt, answer: str, finished: bool) -> Colour:
    success = float(right(prompt, answer))
    return Colour(success if finished else success / 2, success)


SETTINGS = EvaluateSettings.model_validate(
    {
        "max_tokens": 8, "against": ["tuned", "plain"], "seed": 3, "device": "cpu", "dtype": "fp32",
        "ask": {"plain": {"as_text": True}, "shown": {"as_text": True, "shots": 2}}, "compression": True,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(toy, base, tuned, scorer) -> EvaluateInputs:
    return EvaluateInputs(
        models={"plain": base, "shown": base, "tuned": tuned},
        prompts=toy.folder / "prompts.jsonl",
        reference=tuned,
        reward_model=scorer,
        demonstrations=toy.folder / "demonstrations.jsonl",
        heldout_text=toy.folder / "documents.jsonl",
        rankings={"own": toy.folder / "rankings.jsonl"},
        reward_models={"first": scorer},
    )


@pytest.fixture(scope="module")
def out(inputs, tmp_path_factory) -> Path:
    def figures(name, rankings):
        return {"labeller_agreement": 0.7, "named": len(name) + len(rankings)}

    return main(SETTINGS, inputs, tmp_path_factory.mktemp("evaluate") / "run", judge=judge, ranking_figures=figures)


def test_results_have_every_model_in_order_and_every_figure(out):
    results = json.loads((out / "results.json").read_text())
    models = results["models"]
    assert list(models) == ["plain", "shown", "tuned"]
    assert (results["prompts"], results["reference"], results["clear_difference"]) == (32, "tuned", 0.1)
    assert models["tuned"]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert models["plain"]["kl"] is models["shown"]["kl"] is None
    assert models["tuned"]["gold"] > models["plain"]["gold"]
    assert models["tuned"]["win_rate_vs_tuned"] == 0.5
    assert models["tuned"]["win_rate_vs_plain"] > 0.5
    assert models["tuned"]["families"]["all"]["win_rate_vs_plain"] == models["tuned"]["win_rate_vs_plain"]
    assert 0 < results["compression"]["xz"] < 8
    ranked = results["reward_models"]["first"]["own"]
    assert ranked["accuracy"] > 0.7
    assert ranked["named"] == 3 + 120


def test_the_accuracy_of_longer_answers_against_a_plain_loop(out, inputs):
    by_prompt: dict = {}
    for ranking in read_rankings(inputs.rankings["own"]):
        pairs = [
            (len(a.text), len(b.text))
            for a, rank in zip(ranking.completions, ranking.ranks, strict=True)
            for b, other in zip(ranking.completions, ranking.ranks, strict=True)
            if rank < other
        ]
        by_prompt.setdefault(ranking.prompt.messages, []).extend((a > b) + 0.5 * (a == b) for a, b in pairs)
    expected = sum(sum(shares) / len(shares) for shares in by_prompt.values()) / len(by_prompt)
    figures = json.loads((out / "results.json").read_text())["reward_models"]["first"]["own"]
    assert figures["longer_wins_accuracy"] == pytest.approx(expected)
    assert figures["prompts"] == len(by_prompt)


def test_models_of_one_checkpoint_share_their_bits_per_byte(out):
    models = json.loads((out / "results.json").read_text())["models"]
    assert models["shown"]["same_as"] == "plain"
    assert models["shown"]["bits_per_byte"] == models["plain"]["bits_per_byte"] > 0
    assert "same_as" not in models["tuned"]


def test_samples_hold_all_prompts_with_every_models_answer(out):
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 32
    for row in rows:
        assert list(row["answers"]) == ["plain", "shown", "tuned"]
    gold = [row["answers"]["tuned"]["gold"] for row in rows]
    assert sum(gold) / 32 == pytest.approx(json.loads((out / "results.json").read_text())["models"]["tuned"]["gold"])


def test_a_finished_step_is_left_alone_and_its_inputs_are_in_the_lineage(out, inputs):
    before = (out / "results.json").stat().st_mtime_ns
    assert main(SETTINGS, inputs, out, judge=judge) == out
    assert (out / "results.json").stat().st_mtime_ns == before
    recorded = json.loads((out / "lineage.json").read_text())["inputs"]
    names = {"prompts", "reference", "reward_model", "demonstrations", "heldout_text", "rankings.own"}
    assert set(recorded) == names | {"models.plain", "models.shown", "models.tuned", "reward_models.first"}
    assert recorded["models.tuned"]["path"] == str(inputs.models["tuned"])


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({"against": ["sft"]}, {}, "'sft' is not one of the models"),
        ({"ask": {"x": {}}}, {}, "'x' is not one of the models"),
        ({"against": ["tuned"]}, {"reward_model": None}, "win rates need scores"),
        ({"ask": {"plain": {"as_text": True, "shots": 1}}}, {"demonstrations": None}, "drawn from demonstrations"),
        ({"ask": {"plain": {"shots": 1}}}, {}, "give as_text too"),
        ({"compression": True}, {"heldout_text": None}, "give heldout_text"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(inputs, tmp_path, settings, changes, message):
    with pytest.raises(UsageError, match=message):
        main(EvaluateSettings(**settings), inputs.model_copy(update=changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_that_leave_no_room_for_an_answer_are_an_error(inputs, tmp_path):
    settings = SETTINGS.model_copy(update={"max_tokens": 127})
    with pytest.raises(DataError, match="no prompt is left to answer: 32 x too long"):
        main(settings, inputs, tmp_path / "out", judge=judge)


def test_what_is_wrong_with_the_rankings_is_said_before_a_model_answers(inputs, tmp_path, monkeypatch):
    """It would throw away hours of answers."""

    def fails(name, rankings):
        raise DataError("of no use")

    monkeypatch.setattr(compare, "measure_all", None)  # cannot be called
    with pytest.raises(DataError, match="of no use"):
        main(SETTINGS, inputs, tmp_path / "out", judge=judge, ranking_figures=fails)
