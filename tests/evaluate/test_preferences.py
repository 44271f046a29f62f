"""Ratings, agreement of judges, best-of-n and its curves against published numbers, enumeration and plain loops."""

import itertools
import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError, UsageError
from tutelage.evaluate.preferences.agreement import (
    agreement,
    cohen_kappa,
    krippendorff_alpha,
    labellers_alpha,
    position_bias,
)
from tutelage.evaluate.preferences.best_of_n import best_of, curve, exact_kl, fit, fitted, kl_bound
from tutelage.evaluate.preferences.judging import Pair, judged, parse, remote_judge
from tutelage.evaluate.preferences.outcomes import (
    Comparison,
    bradley_terry,
    by_answers,
    by_rankings,
    by_scores,
    ratings,
    win_rates,
)
from tutelage.evaluate.preferences.step import PreferencesInputs, PreferencesSettings, of_samples, read_samples
from tutelage.evaluate.preferences.step import main as step
from tutelage.records import Completion, Message, Prompt, Ranking

NAN = math.nan


def ranking(question, ranks, texts=None, models=None, **fields):
    k = len(ranks)
    texts, models = texts or [f"answer {i}" for i in range(k)], models or [""] * k
    return Ranking(
        prompt=Prompt(messages=(Message(role="user", content=question),)),
        completions=tuple(Completion(text=t, model=m) for t, m in zip(texts, models, strict=True)),
        ranks=tuple(ranks),
        **fields,
    )


# ---- Bradley-Terry


def test_two_models_have_the_log_odds_of_their_wins():
    r = bradley_terry(np.array([[0, 7.5], [2.5, 0]]))
    assert r[0] - r[1] == pytest.approx(math.log(3), abs=1e-9)
    assert r.sum() == pytest.approx(0, abs=1e-12)


def test_a_circle_of_equal_wins_rates_all_the_same():
    assert bradley_terry(np.array([[0, 4, 1], [1, 0, 4], [4, 1, 0]])) == pytest.approx([0, 0, 0], abs=1e-9)


def test_ratings_are_those_of_choix():
    """choix 0.4.1, opt_pairwise(4, data, alpha=0), on the same 36 comparisons."""
    wins = np.array([[0, 5, 3, 6], [2, 0, 4, 1], [1, 2, 0, 5], [1, 3, 3, 0]])
    assert bradley_terry(wins) == pytest.approx(CHOIX, abs=1e-5)


CHOIX = (0.939917, -0.218204, -0.302962, -0.418751)


@given(st.lists(st.integers(1, 20), min_size=12, max_size=12))
def test_ratings_maximise_the_likelihood(counts):
    wins = np.zeros((4, 4))
    for (i, j), count in zip(itertools.permutations(range(4), 2), counts, strict=True):
        wins[i, j] = count
    r = np.zeros(4)  # minorise-maximise (Hunter 2004), another algorithm
    strength = np.ones(4)
    for _ in range(3000):
        new = [
            wins[i].sum() / sum((wins[i, j] + wins[j, i]) / (strength[i] + strength[j]) for j in range(4) if j != i)
            for i in range(4)
        ]
        strength = np.array(new) / np.exp(np.mean(np.log(new)))
    r = np.log(strength)
    assert bradley_terry(wins) == pytest.approx(r - r.mean(), abs=1e-6)
    assert bradley_terry(wins.T) == pytest.approx(-bradley_terry(wins), abs=1e-8)


def test_models_that_never_meet_and_those_that_never_win_are_named():
    apart = [Comparison("p", "a", "b", 1.0), Comparison("p", "c", "d", 0.0)]
    with pytest.raises(UsageError, match="a, b and c, d never meet"):
        ratings(apart)
    with pytest.raises(UsageError, match="y never won against x"):
        bradley_terry(np.array([[0, 3], [0, 0]]), ["x", "y"])
    with pytest.raises(UsageError, match="nothing to rate"):
        ratings([])
    with pytest.raises(UsageError, match="weights are 0"):
        bradley_terry(np.zeros((2, 2)))


def test_the_prior_is_one_tie_per_pair_and_the_interval_is_over_prompts():
    comparisons = [Comparison(str(i), "a", "b", 1.0 if i % 4 else 0.0) for i in range(40)]
    found = ratings(comparisons, resamples=400)
    assert found["a"].rating - found["b"].rating == pytest.approx(math.log(30.5 / 10.5), abs=1e-9)
    # the log-odds have a standard error of 1 / sqrt(40 * 3/4 * 1/4) = 0.365; a rating is half of them
    assert found["a"].high - found["a"].low == pytest.approx(2 * 1.96 * 0.365 / 2, rel=0.2)
    again = ratings(comparisons * 5, resamples=400)  # the same prompts five times are no more evidence
    assert again["a"].high - again["a"].low == pytest.approx(found["a"].high - found["a"].low, rel=0.25)
    with pytest.raises(UsageError, match="all comparisons are on one prompt"):
        ratings([Comparison("p", "a", "b", won) for won in (0.0, 1.0)])
    always = ratings([Comparison(str(i), "a", "b", 1.0) for i in range(9)], resamples=100)
    assert always["a"].rating - always["b"].rating == pytest.approx(math.log(9.5 / 0.5), abs=1e-9)


scores = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(st.data())
def test_exchanging_the_models_mirrors_win_rate_and_ratings(data):
    a = data.draw(scores)
    b = data.draw(st.lists(st.integers(0, 3), min_size=len(a), max_size=len(a)))
    prompts = [str(i) for i in range(len(a))]
    texts = {"a": ["x" * value for value in a], "b": ["xx" * value for value in b]}
    there, back = by_scores(prompts, texts, {"a": a, "b": b}), by_scores(prompts, texts, {"b": b, "a": a})
    assert [c.mirrored() for c in there] == back
    (x,), (y,) = win_rates(there), win_rates(back)
    assert x["win_rate"] == pytest.approx(1 - y["win_rate"])
    assert (x["wins"], x["ties"], x["losses"]) == (y["losses"], y["ties"], y["wins"])
    assert x["win_rate"] == pytest.approx(np.mean([(p > q) + 0.5 * (p == q) for p, q in zip(a, b, strict=True)]))
    p, q = ratings(there, resamples=0), ratings(back, resamples=0)
    assert p["a"].rating == pytest.approx(q["a"].rating, abs=1e-9)


def test_rankings_compare_named_models_and_texts():
    one = ranking("q", [1, 2, 2], models=["m", "n", "m"])
    assert [c[1:4] for c in by_rankings([one, ranking("r", [1, 2])])] == [("m", "n", 1.0), ("n", "m", 0.5)]
    texts = by_answers([ranking("q", [1, 2, 3], texts=["x", "x", "y"])], [[0, 5, 1]])
    assert [c[1:4] for c in texts] == [("x", "y", 0.0), ("x", "y", 1.0)]


# ---- agreement


def test_kappa_of_a_published_table():
    """Yes-yes 20, yes-no 5, no-yes 10, no-no 15: observed 0.7, expected 0.5 (a textbook's example)."""
    a = ["y"] * 25 + ["n"] * 25
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    with pytest.raises(UsageError, match="two categories"):
        cohen_kappa([1, 1], [1, 1])
    with pytest.raises(UsageError, match="same items"):
        cohen_kappa([], [])


# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", sections A and C
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


@pytest.mark.parametrize(
    ("values", "level", "alpha"),
    [(BINARY, "nominal", 0.095), (FOUR, "nominal", 0.743), (FOUR, "ordinal", 0.815), (FOUR, "interval", 0.849)],
)
def test_alpha_of_krippendorffs_examples(values, level, alpha):
    assert krippendorff_alpha(values, level) == pytest.approx(alpha, abs=5e-4)
    assert krippendorff_alpha(values[::-1], level) == pytest.approx(krippendorff_alpha(values, level), abs=1e-12)


def test_alpha_needs_two_values():
    with pytest.raises(UsageError, match="two different values"):
        krippendorff_alpha([[1, 1], [1, NAN]])


def test_agreement_of_two_judges_by_hand():
    one = [Comparison(str(i), "a", "b", won) for i, won in enumerate([1, 1, 0, 0.5, 1])]
    two = [Comparison(str(i), "b", "a", won) for i, won in enumerate([0, 1, 1, 0.5])]  # 1, 0, 0, 1/2 for a
    (row,) = agreement({"one": one, "two": two, "silent": []})
    assert (row["items"], row["raw"], row["decided_items"]) == (4, 0.75, 3)
    assert row["decided"] == pytest.approx(2 / 3)
    # expected: (2*1 + 1*2 + 1*1) / 16 = 5/16
    assert row["kappa"] == pytest.approx((0.75 - 5 / 16) / (11 / 16))
    # interval: observed 1 of 4 items differs by 1: D_o = 1/4. Pooled 1 1 1 0 0 0 .5 .5 about 0.5: D_e = 2 * 1.5 / 7
    assert row["alpha"] == pytest.approx(1 - 0.25 / (2 * 1.5 / 7))


def test_labellers_who_rank_the_same_answers():
    both = [ranking("q", [1, 2, 3], labeller="x"), ranking("q", [1, 2, 3], labeller="y")]
    assert labellers_alpha(both) == pytest.approx(1.0)
    assert labellers_alpha(both[:1]) is None


def test_position_bias_follows_the_recorded_order():
    rankings = [
        ranking("q", [1, 2], meta={"shown": [0, 1]}),  # the first shown wins
        ranking("q", [1, 2], meta={"shown": [1, 0]}),  # the last
        ranking("q", [1, 2, 3], meta={"shown": [2, 0, 1]}),  # one of three
        ranking("q", [1, 1], meta={"shown": [0, 1]}),
        ranking("q", [1, 2, 1], meta={"shown": [0, 1]}),  # the third is equal to the first and was not shown
        ranking("q", [1, 2]),
    ]
    found = position_bias(rankings)
    assert found["first_wins"] == pytest.approx((1 + 0 + 1 / 3 + 1) / 4)
    assert (found["pairs"], found["rankings"]) == (6, 4)
    assert position_bias(rankings[-1:]) is None
    with pytest.raises(DataError, match=r"meta.shown.*0 to 1"):
        position_bias([ranking("q", [1, 2], meta={"shown": [1, 2]})])


# ---- a model as judge


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: A", "A"),
        ("Both are short.\n\nVerdict: tie\n", "tie"),
        ("B.", "B"),
        *(
            (reply, None)
            for reply in ("A is better", "Verdict: A\nThough B is longer", "Verdict: a", "", "Verdict: A or B")
        ),
    ],
)
def test_only_a_last_line_that_is_a_verdict_counts(reply, verdict):
    assert parse(reply) == verdict


def test_the_judge_sees_both_orders():
    answers = zip(["good", "same", "bad", "odd", "good"], ["bad", "same", "good", "mute", "fine"], strict=True)
    pairs = [Pair(str(i), "x", "y", *both) for i, both in enumerate(answers, 1)]

    def ask(text):
        a = text.split("<answer_A>\n")[1].split("\n</answer_A>")[0]
        b = text.split("<answer_B>\n")[1].split("\n</answer_B>")[0]
        assert a != b
        if "mute" in (a, b):
            return "I cannot say."
        if {a, b} == {"good", "fine"}:
            return "Verdict: A"  # whichever comes first
        return "Verdict: A" if a == "good" else "Verdict: B"

    comparisons, how = judged(ask, pairs)
    assert [(c.prompt, c.won) for c in comparisons] == [("1", 1), ("2", 0.5), ("3", 0), ("5", 0.5)]
    assert how == {"pairs": 4, "unparsed": 1, "inconsistent": 1, "first_wins": pytest.approx(4 / 6)}
    with pytest.raises(UsageError, match="none of the judge's replies about 4 pairs"):
        judged(lambda text: "no", pairs)


class Verdicts(BaseHTTPRequestHandler):
    """A server whose model prefers the longer answer; every third question finds it busy."""

    asked: ClassVar[list[str]] = []
    busy: ClassVar[int] = 0

    def log_message(self, *words):
        pass

    def answer(self, code, body, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        self.answer(200, {"data": [{"id": "judge"}]})

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        if len(self.asked) % 3 == 2 and Verdicts.busy < 4:
            Verdicts.busy += 1
            return self.answer(429, {"error": {"message": "too many"}}, Retry_After="0.01")
        self.asked.append(said)
        a, b = (re.search(rf"<answer_{side}>\n(.*)\n</answer_{side}>", said, re.S)[1] for side in "AB")
        content = f"Both are fine.\nVerdict: {'A' if len(a) > len(b) else 'B'}"
        return self.answer(200, {"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture
def judge_server():
    Verdicts.asked, Verdicts.busy = [], 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Verdicts)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_judge_that_is_busy_is_asked_again_and_never_twice_the_same(judge_server, tmp_path):
    pairs = [Pair(f"p{i}", "x", "y", "long answer", "short" * (i == 1)) for i in range(5)]
    kept = tmp_path / "judge.jsonl"
    comparisons, how = judged(remote_judge(judge_server, kept=kept), pairs)
    assert [(c.prompt, c.won, c.lengths) for c in comparisons] == [(f"p{i}", 1.0, (11, 5 * (i == 1))) for i in range(5)]
    assert how == {"pairs": 5, "unparsed": 0, "inconsistent": 0, "first_wins": 0.5}
    assert (len(Verdicts.asked), Verdicts.busy > 0) == (10, True)
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:7]) + '{"asked": "ab')  # killed while it wrote
    assert judged(remote_judge(judge_server, kept=kept), pairs)[0] == comparisons
    assert len(Verdicts.asked) == 13
    assert judged(remote_judge(judge_server, kept=kept), pairs)[0] == comparisons
    assert len(Verdicts.asked) == 13
    kept.write_text('{"asked": "ab')  # killed while it wrote the first reply
    assert judged(remote_judge(judge_server, kept=kept), pairs)[0] == comparisons
    assert judged(remote_judge(judge_server, kept=kept), pairs)[0] == comparisons
    assert len(Verdicts.asked) == 23


def test_a_model_judges_samples_and_rankings(judge_server, tmp_path):
    """So it is held against people; of rows with one prompt each has the lengths of its own answers."""
    samples = tmp_path / "samples.jsonl"
    rows = [
        {"prompt": [{"role": "user", "content": prompt}], "answers": {
            name: {"text": text, "finished": True, "gold": None, "reward": None} for name, text in (("m", first), ("n", second))
        }} for prompt, first, second in (("q", "aaaa", "b"), ("q", "a", "bbb"), ("r", "aaaaa", "bb"))
    ]  # fmt: skip
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = [ranking("q", [1, 2], texts=["long one", "x"]), ranking("r", [1, 2], texts=["y", "a long one"])]
    write_jsonl(tmp_path / "people.jsonl", people)
    inputs = PreferencesInputs(samples=samples, rankings={"people": tmp_path / "people.jsonl"})
    out = step(PreferencesSettings(judge=judge_server, resamples=100), inputs, tmp_path / "out")
    found = json.loads((out / "preferences.json").read_text())
    (row,) = found["samples"]["judges"]["model judge"]["win_rates"]
    assert (row["wins"], row["losses"]) == (2, 1)
    assert 0 <= row["length_controlled"] <= 1
    (pair,) = found["rankings"]["people"]["agreement"]
    assert {pair["a"], pair["b"]} == {"people", "model judge"}
    assert (pair["items"], pair["raw"]) == (2, 0.5)
    assert found["rankings"]["people"]["model_judge"]["pairs"] == 2


def test_reward_models_do_not_judge_what_a_reward_model_picked(tmp_path, capsys):
    rows = [
        {"prompt": [{"role": "user", "content": prompt}], "answers": {
            name: {"text": text, "finished": True, "gold": gold, "reward": reward}
            for name, text, gold, reward in (("m", "a", 0.5, 1.0), ("best", "bb", 0.2, None), ("n", "ccc", 0.1, 2.0))
        }} for prompt in ("q", "r")
    ]  # fmt: skip
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_samples(tmp_path / "samples.jsonl")
    assert read.picked == ["best"]

    class Longer:
        def scores(self, talks, finished):
            return [float(len(talk[-1].text)) for talk in talks]

    found = of_samples(PreferencesSettings(resamples=100), read, {"longer": Longer()})
    assert {(row["a"], row["b"]) for row in found["judges"]["longer"]["win_rates"]} == {("m", "n")}
    assert len(found["judges"]["gold"]["win_rates"]) == 3
    assert found["picked"] == ["best"]
    for row in rows:
        del row["answers"]["n"]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = of_samples(PreferencesSettings(resamples=100), read_samples(tmp_path / "two.jsonl"), {"longer": Longer()})
    assert set(found["judges"]) == {"gold"}


# ---- best-of-n


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=5), st.integers(1, 4))
def test_kl_of_best_of_n_against_enumeration(answers, n):
    p = np.array([weight for weight, _ in answers]) / sum(weight for weight, _ in answers)
    s = [score for _, score in answers]
    best = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        most = max(s[i] for i in drawn)
        winners = [i for i in drawn if s[i] == most]
        for i in winners:  # one of the best at random
            best[i] += math.prod(p[j] for j in drawn) / len(winners)
    expected = sum(q * math.log(q / w) for q, w in zip(best, p, strict=True) if q > 0)
    assert exact_kl(p, s, n) == pytest.approx(expected, abs=1e-9)
    assert exact_kl(p, s, n) <= kl_bound(n) + 1e-9


def test_the_bound_is_reached_by_many_equally_likely_answers():
    many = 100_000
    assert exact_kl(np.full(many, 1 / many), np.arange(many), 8) == pytest.approx(math.log(8) - 7 / 8, abs=1e-3)
    with pytest.raises(UsageError, match=r"add up to 0\.9"):
        exact_kl([0.5, 0.4], [1, 2], 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 5)), min_size=1, max_size=6), st.data())
def test_best_of_n_is_the_mean_over_all_choices(samples, data):
    n = data.draw(st.integers(1, len(samples)))
    proxy, gold = zip(*samples, strict=True)
    means = []
    for chosen in itertools.combinations(range(len(samples)), n):
        most = max(proxy[i] for i in chosen)
        means.append(np.mean([gold[i] for i in chosen if proxy[i] == most]))
    assert best_of(n, proxy, gold) == pytest.approx(np.mean(means), abs=1e-9)


def test_a_curve_goes_to_the_fewest_samples():
    rows = curve([[1, 2, 3, 4, 5], [0, 0, 0]], [[5, 4, 3, 2, 1], [1, 1, 1]])
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert rows[0] == {"n": 1, "kl": 0, "proxy": 1.5, "gold": 2}
    assert rows[2]["proxy"] == pytest.approx((3 * 1 + 4 * 3 + 5 * 6) / 10 / 2)
    with pytest.raises(UsageError, match="best-of-4 cannot be estimated from 3"):
        best_of(4, [1, 2, 3], [1, 2, 3])
    with pytest.raises(UsageError, match="no prompt"):
        curve([])


@given(st.floats(0.1, 3), st.floats(0.05, 1), st.sampled_from(["best_of_n", "rl"]))
def test_a_fit_recovers_its_parameters_and_its_peak(alpha, beta, method):
    kl = np.linspace(0, 25, 30)
    d = np.sqrt(kl[1:])
    found = fit(kl, [0, *fitted(d, alpha, beta, method)], method)
    assert (found["alpha"], found["beta"]) == (pytest.approx(alpha, abs=1e-6), pytest.approx(beta, abs=1e-6))
    assert found["rmse"] < 1e-6
    assume(found["peak"] is not None and found["peak"] < 1e6)
    around = found["peak"] * np.array([0.999, 1, 1.001])
    values = fitted(around, alpha, beta, method)
    assert values[1] >= max(values[0], values[2])
    assert found["peak_measured"] == (d.min() <= found["peak"] <= d.max())


def test_a_line_has_no_peak_and_two_points_have_no_curve():
    assert fit([1, 4, 9], [1, 2, 3], "best_of_n")["peak"] is None
    assert fit([1, 4, 9], [1, 3, 9], "rl")["peak"] is None
    with pytest.raises(UsageError, match="three different KL"):
        fit([0, 1, 1, 4], [0, 1, 1, 2], "rl")
