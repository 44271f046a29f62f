"""`tutelage eval MODEL --tasks` from the command line to results.json: resuming, another model, what is too long."""

from __future__ import annotations

import json
import shutil
from statistics import fmean

import pytest
from random_start import make_start, random_decoder, save

from tutelage.cli import app as cli
from tutelage.data.tokens.shards import tokenise
from tutelage.evaluate.tasks import command
from tutelage.evaluate.tasks.models import Local
from tutelage.evaluate.tasks.run import Asking, run_task
from tutelage.evaluate.tasks.scorers import judged
from tutelage.evaluate.tasks.table import load_tasks
from tutelage.evaluate.tasks.task import Item, Task, Template
from tutelage.records import Document, Message, Prompt
from tutelage.runs.folder import locked
from tutelage.text.tokenizer import Tokenizer
from tutelage.world.build import WorldSettings, build_world, load_judge

ARC = [
    {"question": f"q{i}?", "choices": {"text": ["a", "an b"], "label": ["A", "B"]}, "answerKey": "AB"[i % 2]}
    for i in range(9)
]
GSM = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(5)]
COPIED = "a text and another small text and a text"


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    start = make_start(tmp_path_factory.mktemp("eval"))
    save(start.folder / "other", random_decoder(start.tokenizer, 2), start.tokenizer)
    data = start.folder / "data"
    data.mkdir()
    for name, rows in (
        ("arc_easy", ARC),
        ("gsm8k", GSM),
        ("piqa", [{"goal": COPIED, "sol1": "a", "sol2": "b", "label": 0}] * 2),
    ):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return start


@pytest.fixture
def run(begin, capsys, monkeypatch):
    """Run the command on the small model, whose context is short: answers of four tokens."""
    for task in load_tasks(["gsm8k"]).values():
        monkeypatch.setitem(task.__dict__, "max_tokens", 4)

    def run(*words, model="sft", data=begin.folder / "data"):
        given = [str(begin.folder / model), "--data", data, "--device", "cpu", *words]
        code = cli.main(["eval", *map(str, given)])
        return code, *capsys.readouterr()

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("question,contents", "arc_easy has no template question or contents; it has content, letters"),
        ("letters,step,steps", "none of these tasks has a template 'step'; did you mean 'steps'?"),
    ],
)
def test_a_template_that_no_task_has_is_named(run, wanted, said):
    code, _, error = run("--tasks", "arc_easy,gsm8k", "--templates", wanted)
    assert code == 2
    assert said in error


def test_a_table_and_files(run, tmp_path):
    code, said, _ = run(
        "--tasks",
        "arc_easy,gsm8k",
        "--templates",
        "content,letters,question,direct",
        "--rows",
        "4",
        "--out",
        tmp_path / "out",
    )
    assert code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    samples = lines(tmp_path / "out" / "samples.jsonl")
    assert len(samples) == 2 * 2 * 4
    arc = [sample for sample in samples if sample["task"] == "arc_easy"]
    figures = found["tasks"]["arc_easy"]
    right = [sample["scores"]["acc_norm"] for sample in arc]
    assert figures["score"] == pytest.approx(sum(right) / len(right))
    assert figures["rows"] == 4
    assert figures["ci"][0] <= figures["score"] <= figures["ci"][1]
    assert set(figures["templates"]) == {"content", "letters"}
    row = next(line.split("\t") for line in said.splitlines() if line.startswith("arc_easy\t"))
    assert row[:3] == ["arc_easy", "acc_norm", f"{figures['score']:.1%}"]
    for sample in arc:
        best = max(range(2), key=lambda i: sample["logprobs"][i])
        assert sample["scores"]["acc"] == float(best in sample["gold"])
        assert bool(sample["bare"]) == (sample["template"] == "content")


def test_a_killed_run_goes_on_with_the_rows_that_it_kept(run, tmp_path, monkeypatch):
    run("--tasks", "arc_easy", "--out", tmp_path / "whole")
    out, asked = tmp_path / "out", []
    weigh = Local.weigh

    def dies(self, pairs):
        asked.append(len(pairs))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return weigh(self, pairs)

    monkeypatch.setattr(Local, "together", 4)
    monkeypatch.setattr(Local, "weigh", dies)
    assert run("--tasks", "arc_easy", "--out", out)[0] == 130
    kept = (out / "samples.jsonl").read_bytes()
    assert kept.count(b"\n") == 4
    (out / "samples.jsonl").write_bytes(b"garbage{" + kept)
    assert "samples.jsonl, line 1 is not JSON" in run("--tasks", "arc_easy", "--out", out)[2]
    (out / "samples.jsonl").write_bytes(kept + b'{"task": "arc_')  # a write that was cut short
    with locked(out):
        assert "out is held by process" in run("--tasks", "arc_easy", "--out", out)[2]
    assert run("--tasks", "arc_easy", "--out", out)[0] == 0
    assert (out / "samples.jsonl").read_bytes().startswith(kept)
    assert sum(asked[2:]) == 4 * (len(ARC) - 4)  # two choices, with and without the question
    both = [sorted(lines(folder / "samples.jsonl"), key=lambda s: s["id"]) for folder in (tmp_path / "whole", out)]
    for one, other in zip(*both, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
    scores = [
        json.loads((folder / "results.json").read_text())["tasks"]["arc_easy"]["score"]
        for folder in (tmp_path / "whole", out)
    ]
    assert scores[0] == scores[1]
    code, _, error = run("--tasks", "arc_easy", "--out", out, "--shots", "1")
    assert code == 2
    assert "made with other settings (shots: 0 there, 1 now): give another --out" in error
    assert "(model: " in run("--tasks", "arc_easy", "--out", out, model="other")[2]


def test_nothing_is_left_of_a_run_that_kept_nothing(run, tmp_path):
    assert run("--tasks", "arc_easy", "--shots", "8", "--out", tmp_path / "out")[0] == 2  # too long with so many
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):  # another has begun, and has no row yet
        assert "is held by process" in run("--tasks", "arc_easy", "--out", tmp_path / "out")[2]
        assert (tmp_path / "out" / "lock").exists()


def test_progress_is_said_with_the_time_that_is_left(capsys, monkeypatch):
    """A run that goes on at 20 of 100 rows: what was there before does not count for the rate."""
    clock = iter([0.0, 0.0, 4.0, 10.0, 12.0, 40.0])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    told = command.progress("arc")
    for done in (20, 24, 30, 31, 60):
        told(done, 100)
    assert capsys.readouterr().out.splitlines() == ["arc  30 of 100 rows  70 s left", "arc  60 of 100 rows  40 s left"]


def test_rows_that_were_changed_are_not_taken_for_those_that_were_asked(run, begin, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(begin.folder / "data", data)
    words = ("--tasks", "arc_easy", "--out", tmp_path / "out")
    assert run(*words, data=data)[0] == run(*words, data=data)[0] == 0
    turned = [row | {"answerKey": "BA"["AB".index(row["answerKey"])]} for row in ARC]
    (data / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    code, _, error = run(*words, data=data)
    assert code != 0
    assert "arc_easy.jsonl:1 was asked or answered otherwise in this folder: give another --out" in error


def test_a_bad_row_stops_or_is_left_out_and_counted(run, begin, tmp_path):
    (tmp_path / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*ARC[:3], {"question": "q"})))
    assert "arc_easy.jsonl:4" in run("--tasks", "arc_easy", data=tmp_path)[2]
    words = ("--tasks", "arc_easy", "--on_bad", "skip", "--out", tmp_path / "out")
    code, said, _ = run(*words, data=tmp_path)
    assert code == 0
    assert "of 3 rows of arc_easy.jsonl; 1 rows left out, too long or bad" in said
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["arc_easy"]
    assert (figures["left_out"], figures["files"]) == (1, ["arc_easy.jsonl"])


def test_two_models_on_the_same_rows(run, begin, tmp_path):
    other = begin.folder / "other"
    code, said, _ = run(
        "--tasks", "arc_easy", "--against", other, "--out", tmp_path / "o", "--seed", "3", "--rows", "6"
    )
    assert code == 0
    found = json.loads((tmp_path / "o" / "results.json").read_text())
    mine, theirs = (
        {s["id"]: s["scores"]["acc_norm"] for s in lines(tmp_path / "o" / name)}
        for name in ("samples.jsonl", "against/samples.jsonl")
    )
    assert mine.keys() == theirs.keys()
    figures = found["against"]["tasks"]["arc_easy"]
    assert figures["difference"]["mean"] == pytest.approx(sum(mine[k] - theirs[k] for k in mine) / 6)
    assert figures["rows_of_both"] == 6
    assert f"{begin.folder / 'sft'} - {other}" in said


def test_rows_that_stand_in_the_training_text(run, begin, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "It was said: " + COPIED + "."}) + "\n")
    shard = tokenise([Document(text="unlike"), Document(text=COPIED)], begin.tokenizer, tmp_path / "shard")
    for path in (text, shard.path):
        code, _, _ = run("--tasks", "piqa,arc_easy", "--training", path, "--out", tmp_path / path.stem)
        assert code == 0
        found = json.loads((tmp_path / path.stem / "results.json").read_text())["tasks"]
        assert found["piqa"]["contamination"] == {"rows": 2, "share": 1.0, "clean_rows": 0}
        assert found["arc_easy"]["contamination"]["share"] is None  # its rows are too short to tell
    unlike = tokenise([Document(text="unlike")], begin.tokenizer, tmp_path / "unlike")
    run("--tasks", "piqa", "--training", unlike.path, "--out", tmp_path / "clean")
    found = json.loads((tmp_path / "clean" / "results.json").read_text())["tasks"]["piqa"]["contamination"]
    assert (found["share"], found["clean_rows"]) == (0, 2)
    foreign = tokenise([Document(text=COPIED)], Tokenizer.train([COPIED] * 9, 270), tmp_path / "foreign")
    assert "was made with another tokenizer" in run("--tasks", "piqa", "--training", foreign.path)[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "arc_eas"], "there is no task 'arc_eas'; did you mean 'arc_easy'?"),
        (
            ["--tasks", "arc_easy", "--shots", "9"],
            "arc_easy: --shots 9 are more than the 8 examples for arc_easy.jsonl:1",
        ),
        (["--tasks", "arc_easy", "--shots", "8"], "ask with fewer --shots"),
        (["--tasks", "arc_easy", "--temperature", "1.5"], "only --seed counts"),
        (["--tasks", "gsm8k,arc_easy", "--samples", "2"], "programs, and those of gsm8k, arc_easy are not"),
        (["--tasks", "humaneval", "--samples", "2", "--temperature", "0"], "2 samples at temperature 0 are all the"),
        (["--tasks", "humaneval", "--samples", "2", "--top_p", "0.9"], "only --seed counts"),
        (["--tasks", "arc_easy", "--prompts", "x"], "give either --tasks, or"),
        (["--tasks", "xstest"], "has no rows of xstest"),
        ([], "give either --tasks, or"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, words, said, tmp_path):
    code, _, error = run(*words, *(["--out", tmp_path / "out"] if words else []))
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert not (tmp_path / "out").exists()


def test_rows_that_are_too_long_can_be_left_out(begin):
    subject = command.load_subject(str(begin.folder / "sft"), "cpu")
    task = load_tasks(["arc_easy"])["arc_easy"]
    items = [Item({"question": "?" * n}, ("a", "b"), (0,), id=str(n)) for n in (5, 90, 7)]
    samples, left_out = run_task("arc", task, items, [], subject, Asking(on_bad="skip"))
    assert ([sample["id"] for sample in samples], left_out) == (["5", "7"], 1)
    with pytest.raises(
        Exception, match=r"arc: 1 rows are longer than the model's context of 64 tokens, the first 90 with"
    ):
        run_task("arc", task, items, [], subject, Asking())


def test_a_world_and_its_judge_are_a_task(begin, tmp_path, capsys, monkeypatch):
    """Every row's score is the judge's, of what the model says to that prompt."""
    monkeypatch.setitem(load_tasks(["world"])["world"].__dict__, "max_tokens", 4)
    knobs = {
        "people": 12,
        "documents": 40,
        "demonstrations": 8,
        "prompts": 8,
        "heldout_prompts": 8,
        "heldout_documents": 4,
    }
    build_world(WorldSettings(**knobs, heldout_demonstrations=4), tmp_path / "world")
    words = [
        "eval",
        str(begin.folder / "sft"),
        "--tasks",
        "world",
        "--chat",
        "--rows",
        "6",
        "--on_bad",
        "skip",
        "--device",
        "cpu",
    ]
    assert cli.main(words) == 2
    assert (
        "world: the judge of an embedded world scores its answers: name its folder with --world"
        in capsys.readouterr().err
    )
    assert cli.main([*words, "--world", str(tmp_path / "world"), "--out", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["world"]
    rows = lines(tmp_path / "out" / "samples.jsonl")
    judge = load_judge(tmp_path / "world").judge
    prompts = [
        Prompt.model_validate_json(line) for line in (tmp_path / "world/prompts_heldout.jsonl").read_text().splitlines()
    ]
    assert len(rows) == figures["rows"] == 6 - figures["left_out"] > 0
    for row in rows:
        prompt = prompts[int(row["id"].rpartition(":")[2]) - 1]
        assert row["scores"]["gold"] == judge(prompt, row["answer"], row["finished"]).score
    assert figures["score"] == pytest.approx(fmean(row["scores"]["gold"] for row in rows))
    assert set(figures["groups"]) == {prompts[int(row["id"].rpartition(":")[2]) - 1].meta["family"] for row in rows}


def test_a_judge_is_a_scorer(begin):
    class Verdict:
        def __init__(self, score):
            self.score = self.success = score

    prompts = [Prompt(messages=(Message(role="user", content="?" * (i + 1)),)) for i in range(3)]
    items = [Item({"prompt": p.messages[0].text}, source=p, id=str(i)) for i, p in enumerate(prompts)]
    told = []

    def judge(prompt, answer, finished):
        told.append((prompt, finished))
        return Verdict(len(prompt.messages[0].text) / 4)

    task = Task(
        "judged", (), lambda row: Item(), {"x": Template("{prompt}", "")}, "gold", grade=judged(judge), max_tokens=3
    )
    subject = command.load_subject(str(begin.folder / "sft"), "cpu")
    samples, _ = run_task("world", task, items, [], subject, Asking(chat=True))
    assert [sample["scores"]["gold"] for sample in samples] == [0.25, 0.5, 0.75]
    assert sorted((prompt for prompt, _ in told), key=prompts.index) == prompts


def test_what_belongs_to_tasks_is_refused_elsewhere_and_the_other_way_round(begin, tmp_path, capsys):
    """Nothing that was asked for is dropped in silence."""
    a, b = str(begin.folder / "sft"), str(begin.folder / "other")
    given = {
        "--out": tmp_path / "out",
        "--rows": 2,
        "--against": "x",
        "--shots": 3,
        "--data": tmp_path,
        "--dtype": "bf16",
    }
    for name, value in given.items():
        assert cli.main(["eval", a, b, "--prompts", str(tmp_path / "p.jsonl"), name, str(value)]) == 2
        assert f"{name}: only with --tasks" in capsys.readouterr().err
    for words in (["--reward_model", b], ["--world", str(tmp_path)]):
        assert cli.main(["eval", a, "--tasks", "piqa", "--data", str(begin.folder / "data"), *words]) == 2
        assert "with --tasks, --world is for the task world" in capsys.readouterr().err


def test_another_model_that_is_not_there_is_found_before_the_first_is_asked(begin, tmp_path, capsys):
    words = ["eval", str(begin.folder / "sft"), "--tasks", "piqa", "--data", str(begin.folder / "data")]
    assert cli.main([*words, "--against", str(tmp_path / "none")]) == 2
    told = capsys.readouterr()
    assert (told.out, "none' is neither a folder" in told.err) == ("", True)
