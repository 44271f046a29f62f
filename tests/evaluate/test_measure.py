"""What is measured of a model, against plain loops: unpadded rows, one token at a time. Models are random."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import pytest
import torch
from random_start import Start, logprobs_of, make_start, random_decoder, save, talk

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import write_jsonl
from tutelage.evaluate.compare import EvaluateInputs, EvaluateSettings, main, measure_all, results_of
from tutelage.evaluate.measure import Measured, Measures, divergence, gold_figures, measure, written_length
from tutelage.evaluate.reward_model import reward_model_figures
from tutelage.generate.engine import Engine
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import load_decoder, load_scalar
from tutelage.records import Answers, Completion, Document, Message, Prompt, Ranking
from tutelage.seeds import derive
from tutelage.text.chat import render, render_answers

KINDS = [("count", "en"), ("count", "zh"), ("story", "en"), ("count", "en"), ("story", "zh"), ("story", "en")]
PROMPTS = [
    Prompt(messages=(Message(role="user", content="?" * (i + 1)),), meta={"family": family, "language": language})
    for i, (family, language) in enumerate(KINDS)
]
CHINESE = [
    Document(text="红色的门，蓝色的帽子。" * 30),
    Document(text="a small text 和另一个"),
    Document(text="路很长。"),
]
SAMPLING = Sampling(max_tokens=6, seed=5)


@dataclass(frozen=True)
class Opinion:
    score: float
    success: float


def judge(prompt: Prompt, answer: str, finished: bool) -> Opinion:
    """Not a good one, but one whose verdicts differ."""
    size = (len(answer) + len(prompt.messages[0].text)) % 5
    return Opinion(size / 10 + 0.5 * finished, float(size > 2))


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("measure"))
    save(start.folder / "other", random_decoder(start.tokenizer, 2), start.tokenizer)
    write_jsonl(start.folder / "chinese.jsonl", CHINESE)
    write_jsonl(start.folder / "asked.jsonl", PROMPTS)
    return start


def measures(begin: Start, **some: object) -> Measures:
    return replace(Measures(device="cpu", dtype="fp32"), **some)


def kl_of(begin: Start, model: str, reference: str, answers: Sequence[Answers]) -> float:
    """log pi - log pi_reference, summed over the tokens of each answer: the mean over answers."""
    mine, theirs = (load_decoder(begin.folder / name).eval() for name in (model, reference))
    sums = []
    with torch.no_grad():
        for item in answers:
            prompt = render(begin.tokenizer, item.prompt.messages, add_generation_prompt=True).ids
            completion = item.completions[0]
            answer = list(completion.ids or begin.tokenizer.encode(completion.text))
            if completion.ids is None and completion.finished:
                answer.append(begin.tokenizer.end_id)
            pairs = zip(logprobs_of(mine, prompt, answer), logprobs_of(theirs, prompt, answer), strict=True)
            sums.append(sum(p.item() - q.item() for p, q in pairs))
    return fmean(sums)


def test_the_kl_of_two_models_is_summed_over_the_tokens_of_the_answers(begin):
    found = measure(begin.folder / "sft", PROMPTS, SAMPLING, measures(begin, reference=begin.folder / "other"))
    assert found.figures["kl"] == pytest.approx(kl_of(begin, "sft", "other", found.answers), rel=1e-4)
    assert found.figures["kl"] > 1
    back = measure(begin.folder / "other", PROMPTS, SAMPLING, measures(begin, reference=begin.folder / "sft"))
    assert back.figures["kl"] == pytest.approx(kl_of(begin, "other", "sft", back.answers), rel=1e-4)
    assert back.figures["kl"] > 1


def test_the_kl_is_that_of_temperature_one_whatever_the_answers_are_sampled_at(begin):
    against = measures(begin, reference=begin.folder / "other")
    one = measure(begin.folder / "sft", PROMPTS, SAMPLING, against)
    cold = measure(begin.folder / "sft", PROMPTS, SAMPLING.model_copy(update={"temperature": 0.3}), against)
    assert [a.completions[0].ids for a in cold.answers] != [a.completions[0].ids for a in one.answers]
    assert cold.figures["kl"] == one.figures["kl"]


def test_the_kl_of_answers_whose_tokens_are_not_known_counts_the_end_of_finished_ones(begin):
    texts = [("a small text", True), ("another", False), ("and", True), ("", True), ("small", False), ("a", True)]
    answers = [
        Answers(prompt=prompt, completions=(Completion(text=text, finished=finished),))
        for prompt, (text, finished) in zip(PROMPTS, texts, strict=True)
    ]
    model, reference = (Assistant.load(begin.folder / name, device="cpu", dtype="fp32") for name in ("sft", "other"))
    assert divergence(model, reference, answers) == pytest.approx(kl_of(begin, "sft", "other", answers), rel=1e-4)


def test_lengths_ends_and_rewards_by_a_loop(begin):
    found = measure(begin.folder / "sft", PROMPTS, SAMPLING, measures(begin, reward_model=begin.folder / "reward"))
    completions = [item.completions[0] for item in found.answers]
    written = [[i for i in c.ids if i != begin.tokenizer.end_id] for c in completions]
    assert found.figures["length"] == fmean(map(len, written))
    assert found.figures["finished"] == fmean(c.ids[-1] == begin.tokenizer.end_id for c in completions)
    assert 0 < found.figures["finished"] < 1
    decoder = load_decoder(begin.folder / "sft")
    assert found.figures["parameters"] == sum(weight.numel() for weight in decoder.parameters())
    scorer = load_scalar(begin.folder / "reward").eval()
    scores = []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        start, answer = render_answers(begin.tokenizer, prompt.messages, [completion.text], [completion.finished])
        scores.append(scorer(torch.tensor([start + answer[0]]))[0, -1].item())
    assert found.reward == pytest.approx(scores, abs=1e-4)
    assert found.figures["reward"] == pytest.approx(fmean(scores), abs=1e-4)
    assert found.quality == found.reward
    assert found.sample(2)["text"] == completions[2].text
    assert found.sample(2)["reward"] == found.reward[2]
    assert found.gold is found.figures["kl"] is found.figures["bits_per_byte"] is None


def test_the_length_of_an_answer_does_not_count_what_ends_it(begin):
    text, end, next_document = begin.tokenizer.encode("a small text"), begin.tokenizer.end_id, begin.tokenizer.bos_id
    for ids in ([*text, end], [*text, next_document], text):
        assert written_length(begin.tokenizer, Completion(text="a small text").with_ids(ids)) == len(text)
    assert written_length(begin.tokenizer, Completion(text="a small text")) == len(text)


def test_gold_figures_by_family_and_language_by_a_loop(begin):
    found = measure(begin.folder / "sft", PROMPTS, SAMPLING, measures(begin, judge=judge))
    verdicts = [judge(a.prompt, a.completions[0].text, a.completions[0].finished) for a in found.answers]
    assert found.quality == found.gold == [verdict.score for verdict in verdicts]
    assert found.figures["gold"] == pytest.approx(fmean(found.gold))
    assert {"parameters", "length", "finished"} < set(found.figures)
    for plural, place in (("families", 0), ("languages", 1)):
        assert list(found.figures[plural]) == sorted({kind[place] for kind in KINDS})
        for name, figures in found.figures[plural].items():
            members = [verdict for verdict, kind in zip(verdicts, KINDS, strict=True) if kind[place] == name]
            assert figures["n"] == len(members)
            assert figures["gold"] == pytest.approx(fmean(one.score for one in members))
            assert figures["accuracy"] == pytest.approx(fmean(one.success for one in members))


def measured_order(documents: list[Document]) -> list[Document]:
    """Held-out documents are drawn from the whole file, for every model in the same order."""
    keys = {id(document): derive(0, "heldout.documents", i) for i, document in enumerate(documents)}
    return sorted(documents, key=lambda document: keys[id(document)])


def test_the_interval_of_gold_scores_by_hand():
    # mean 0.91667, deviation 0.20412, t(0.975, 5) 2.5706: 0.91667 +- 0.21422, cut at 1
    low, high = gold_figures(PROMPTS, [1.0, 1.0, 1.0, 1.0, 1.0, 0.5], [1.0] * 6)["gold_ci"]
    assert low == pytest.approx(0.70245, abs=1e-4)
    assert high == 1.0


def test_bits_per_byte_of_chinese_text_by_a_loop(begin):
    found = measure(
        begin.folder / "sft", PROMPTS[:1], SAMPLING, measures(begin, heldout_text=begin.folder / "chinese.jsonl")
    )
    stream = [i for d in measured_order(CHINESE) for i in (begin.tokenizer.bos_id, *begin.tokenizer.encode(d.text))]
    model, nats = load_decoder(begin.folder / "sft").eval(), 0.0
    assert len(stream) > 3 * 64
    with torch.no_grad():
        for start in range(0, len(stream) - 1, 64):  # the model's context
            window = stream[start : start + 65]
            nats -= sum(p.item() for p in logprobs_of(model, window[:1], window[1:]))
    expected = nats / math.log(2) / sum(len(d.text.encode("utf-8")) for d in CHINESE)
    assert found.figures["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_needs_log2_v_bits_per_token(begin, tmp_path):
    uniform = random_decoder(begin.tokenizer, 0)
    with torch.no_grad():
        uniform.unembed.weight.zero_()
    save(tmp_path / "uniform", uniform, begin.tokenizer)
    some = measures(begin, heldout_text=begin.folder / "chinese.jsonl")
    found = measure(tmp_path / "uniform", PROMPTS[:1], SAMPLING, some)
    tokens = sum(1 + len(begin.tokenizer.encode(d.text)) for d in CHINESE)
    size = sum(len(d.text.encode("utf-8")) for d in CHINESE)
    expected = (tokens - 1) * math.log2(begin.tokenizer.vocab_size) / size
    assert found.figures["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


# ---- the step that compares


def test_win_rates_of_two_models_overall_and_by_family_by_a_loop(begin):
    models = {name: begin.folder / name for name in ("sft", "other")}
    measured = measure_all(models, PROMPTS, SAMPLING, measures(begin, judge=judge))
    results = results_of(measured, ["sft"], 0.15)
    pairs = list(zip(measured["other"].gold, measured["sft"].gold, strict=True))
    figures = results["models"]["other"]

    def share(chosen: Sequence[tuple[float, float]], tie: float = 1e-9) -> float:
        return fmean(0.5 if abs(a - b) <= tie else float(a > b) for a, b in chosen)

    assert len({a > b for a, b in pairs}) == 2
    assert figures["win_rate_vs_sft"] == pytest.approx(share(pairs))
    assert figures["clear_win_rate_vs_sft"] == pytest.approx(share(pairs, 0.15))
    for family, found in figures["families"].items():
        own = [pair for pair, kind in zip(pairs, KINDS, strict=True) if kind[0] == family]
        assert found["win_rate_vs_sft"] == pytest.approx(share(own))


@pytest.fixture
def asked(monkeypatch) -> list:
    """The requests that the engine gets."""
    requests: list = []
    submit = Engine.submit

    def submitting(engine, request, *rest, **options):
        requests.append(request)
        return submit(engine, request, *rest, **options)

    monkeypatch.setattr(Engine, "submit", submitting)
    return requests


def test_the_step_asks_every_model_the_same_prompts_with_its_settings(begin, tmp_path, asked):
    knobs = EvaluateSettings(temperature=0.8, max_tokens=5, seed=2, against=("sft",), device="cpu", dtype="fp32")
    inputs = EvaluateInputs(
        models={"sft": begin.folder / "sft", "other": begin.folder / "other"}, prompts=begin.folder / "asked.jsonl",
        reward_model=begin.folder / "reward", reference=begin.folder / "other",
        heldout_text=begin.folder / "chinese.jsonl",
    )  # fmt: skip
    out = main(knobs, inputs, tmp_path / "run", judge=judge)
    results = json.loads((out / "results.json").read_text())
    prompts = [render(begin.tokenizer, p.messages, add_generation_prompt=True).ids for p in PROMPTS]
    shown = [r for r in asked if r.sampling.temperature == 0.8]
    measured_at_one = [r for r in asked if r.sampling.temperature == 1.0]
    for requests in (shown, measured_at_one):
        assert [list(r.ids) for r in requests] == prompts * 2
        assert all(r.sampling.max_tokens == 5 for r in requests)
    assert len(asked) == 24
    seeds = [r.sampling.seed for r in shown]
    assert seeds[:6] == seeds[6:]
    assert len(set(seeds)) == 6
    other = EvaluateSettings.model_validate(knobs.model_dump() | {"seed": 3, "against": ()})
    asked.clear()
    main(other, inputs.model_copy(update={"reference": None}), tmp_path / "again", judge=judge)
    assert not set(seeds) & {r.sampling.seed for r in asked}

    assert results["reference"] == "other"
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        assert (row["family"], row["language"]) == KINDS[i]
        for one in row["answers"].values():
            assert one["gold"] == judge(PROMPTS[i], one["text"], one["finished"]).score
    for name in ("sft", "other"):
        sample = [row["answers"][name] for row in rows]
        assert results["models"][name]["gold"] == pytest.approx(fmean(one["gold"] for one in sample))
        assert results["models"][name]["reward"] == pytest.approx(fmean(one["reward"] for one in sample))
    pairs = [
        [row["answers"][name]["gold"] for name in ("other", "sft")] for row in rows
    ]  # gold decides, not the reward
    wins, losses = sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)
    record = {"wins": wins, "ties": 6 - wins - losses, "losses": losses}
    assert results["models"]["other"]["record_vs_sft"] == record
    assert results["models"]["other"]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert results["models"]["sft"]["kl"] > 1


def test_without_a_judge_the_reward_model_decides_and_nothing_is_clear(begin):
    models = {name: begin.folder / name for name in ("sft", "other")}
    measured: dict[str, Measured] = measure_all(
        models, PROMPTS, SAMPLING, measures(begin, reward_model=begin.folder / "reward")
    )
    figures = results_of(measured, ["sft"], None)["models"]["other"]
    wins = sum(a > b for a, b in zip(measured["other"].reward, measured["sft"].reward, strict=True))
    assert figures["record_vs_sft"] == {"wins": wins, "ties": 0, "losses": 6 - wins}
    assert "clear_win_rate_vs_sft" not in figures


def test_prompts_without_room_for_an_answer_are_left_out_unless_asked_in_plain_text(begin, tmp_path, asked):
    prompts = [PROMPTS[0], Prompt(messages=(Message(role="user", content="?" * 40),))]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)  # the longer one and 30 tokens exceed a context of 64
    inputs = EvaluateInputs(models={"sft": begin.folder / "sft"}, prompts=tmp_path / "prompts.jsonl")
    for as_text, count in ((False, 1), (True, 2)):
        knobs = EvaluateSettings.model_validate(
            {"max_tokens": 30, "ask": {"sft": {"as_text": as_text}}, "device": "cpu", "dtype": "fp32"}
        )
        results = json.loads((main(knobs, inputs, tmp_path / str(as_text)) / "results.json").read_text())
        assert results["prompts"] == len(asked) == count
        assert (begin.tokenizer.assistant_id in asked[0].ids) == (not as_text)
        asked.clear()
        assert results["clear_difference"] is None  # there is no judge


def test_compression_is_that_of_the_documents_with_an_empty_line_between_them(begin, tmp_path):
    knobs = EvaluateSettings(max_tokens=4, compression=True, device="cpu", dtype="fp32")
    inputs = EvaluateInputs(
        models={"sft": begin.folder / "sft"}, prompts=begin.folder / "asked.jsonl",
        heldout_text=begin.folder / "chinese.jsonl",
    )  # fmt: skip
    found = json.loads((main(knobs, inputs, tmp_path / "run") / "results.json").read_text())["compression"]
    text = "\n\n".join(document.text for document in measured_order(CHINESE)).encode()
    assert found["gzip"] == pytest.approx(8 * len(gzip.compress(text, 9)) / len(text))
    assert found["xz"] == pytest.approx(8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text))


def test_a_model_in_plain_text_sees_as_many_shots_as_it_is_asked_with(begin, tmp_path, asked):
    write_jsonl(tmp_path / "shown.jsonl", [talk("which?", f"shown{i}") for i in range(6)])
    inputs = EvaluateInputs(
        models=dict.fromkeys(("sft", "labelled", "again"), begin.folder / "sft"), prompts=begin.folder / "asked.jsonl",
        demonstrations=tmp_path / "shown.jsonl",
    )  # fmt: skip
    ask = {
        "sft": {"as_text": True},
        "labelled": {"as_text": True, "labelled": True},
        "again": {"as_text": True, "shots": 2},
    }
    knobs = EvaluateSettings.model_validate({"ask": ask, "max_tokens": 4, "device": "cpu", "dtype": "fp32"})
    main(knobs, inputs, tmp_path / "run")
    texts = [begin.tokenizer.decode(request.ids) for request in asked]
    assert [text.count("shown") for text in texts] == [0] * 12 + [2] * 6
    assert [text.endswith("\nA:") for text in texts] == [False] * 6 + [True] * 12
    assert all(
        last.endswith(alone.removeprefix("<|endoftext|>")) for alone, last in zip(texts[6:12], texts[12:], strict=True)
    )


def test_a_reward_model_on_rankings_by_a_loop(begin):
    """Of the completions some are cut off: they have no end token, and another score than the same text with one."""
    texts = [("small", "a small text", "another"), ("and", "and"), ("no", "yes", "a", "text")]
    ranks, cut = [(1, 2, 2), (1, 2), (2, 1, 3, 3)], [{1}, {0}, {0, 2}]
    rankings = [
        Ranking(
            prompt=PROMPTS[i],
            completions=tuple(Completion(text=text, finished=j not in cut[i]) for j, text in enumerate(texts[i])),
            ranks=ranks[i],
        )
        for i in range(3)
    ]
    scorer, shares, gaps, longer = load_scalar(begin.folder / "reward").eval(), [], [], []
    for one in rankings:
        finished = [c.finished for c in one.completions]
        prompt, written = render_answers(
            begin.tokenizer, one.prompt.messages, [c.text for c in one.completions], finished
        )
        scores = [scorer(torch.tensor([prompt + answer]))[0, -1].item() for answer in written]
        places = range(len(scores))
        pairs = [(i, j) for i in places for j in places if one.ranks[i] < one.ranks[j]]
        gaps += [scores[i] - scores[j] for i, j in pairs]
        shares.append(fmean(float(scores[i] > scores[j]) for i, j in pairs))
        sizes = [len(c.text) for c in one.completions]
        longer.append(fmean((sizes[i] > sizes[j]) + 0.5 * (sizes[i] == sizes[j]) for i, j in pairs))
    figures = reward_model_figures(Assistant.load(begin.folder / "reward", device="cpu", dtype="fp32"), rankings)
    assert figures["accuracy"] == pytest.approx(fmean(shares))
    assert figures["longer_wins_accuracy"] == pytest.approx(fmean(longer))
    assert 0 < fmean(shares) < 1
    assert (figures["pairs"], figures["prompts"], figures["too_long"]) == (len(gaps), 3, 0)
    predicted = sum(row["n"] * row["predicted"] for row in figures["calibration"]) / len(gaps)
    assert predicted == pytest.approx(fmean(1 / (1 + math.exp(-abs(gap))) for gap in gaps), rel=1e-5)
    observed = sum(row["n"] * row["observed"] for row in figures["calibration"]) / len(gaps)
    assert observed == pytest.approx(fmean(float(gap > 0) for gap in gaps))
    longest = rankings[0].model_copy(update={"completions": (Completion(text="?" * 90), *rankings[0].completions[1:])})
    both = reward_model_figures(
        Assistant.load(begin.folder / "reward", device="cpu", dtype="fp32"), [longest, *rankings]
    )
    assert both == figures | {"too_long": 1}
