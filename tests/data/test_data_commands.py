"""`tutelage data inspect` and `tutelage data convert`, as they are typed."""

import gzip
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.cli import app as cli
from tutelage.data.formats import read_conversations, read_documents, read_prompts, read_rankings, write_jsonl
from tutelage.data.inspect import Quantiles, inspect_data, scripts_of
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking
from tutelage.text import Tokenizer

Q = Message(role="user", content="q?")
BE = Message(role="system", content="be")


def ranking(*ranks, texts=None, **more):
    texts = texts or [f"answer {i}" for i in range(len(ranks))]
    completions = tuple(Completion(text=text) for text in texts)
    return Ranking(prompt=Prompt(messages=(Q,)), completions=completions, ranks=ranks, **more)


def talk(*texts, system=False):
    turns = tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))
    return Conversation(messages=(BE, *turns) if system else turns)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


# ---- inspect


def test_figures_of_rankings_by_hand(tmp_path):
    path = tmp_path / "r.jsonl"
    texts = ["aaaa", "bb", "c"]
    some = [
        ranking(1, 2, 2, texts=texts, labeller="ann"),
        ranking(2, 1, texts=["long", "x"], labeller="bob"),
        ranking(1, 1),
    ]
    write_jsonl(path, [*some, some[0]])
    found = inspect_data(path)
    (facts,) = found.kinds.values()
    assert (facts.records, facts.duplicates) == (4, 1)
    assert dict(facts.sizes) == {3: 2, 2: 2}
    assert (facts.with_ties, facts.tied_pairs, facts.pairs) == (3, 3, 5)
    assert (facts.longer_wins, facts.equally_long) == (4, 0)
    assert facts.labellers == {"ann", "bob"}
    assert sorted(facts.lengths["completion", "characters"]) == [1, 1, 1, 2, 2, 4, 4, 4, 8, 8]
    assert list(facts.lengths["prompt", "characters"]) == [2] * 4
    assert [(f.format, f.kind, f.records, f.left_out, f.problem) for f in found.files] == [
        ("ranking", "rankings", 4, 0, "")
    ]
    assert facts.examples[0] == "user: q?\nrank 1: aaaa\nrank 2: bb\nrank 2: c"


def test_figures_of_conversations_by_hand(tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [talk("a", "bb"), talk("a", "bb", "ccc", "dddd", system=True), talk("a", "bb")])
    (facts,) = inspect_data(tmp_path).kinds.values()
    assert list(facts.turns) == [2, 4, 2]
    assert (facts.with_system, facts.duplicates) == (1, 1)
    assert list(facts.lengths["answer", "characters"]) == [2, 2, 4, 2]
    assert list(facts.lengths["conversation", "characters"]) == [4, 16, 4]


def test_tokens_are_those_of_the_tokenizer(tmp_path):
    texts = [f"some words number {i}" for i in range(600)]
    tokenizer = Tokenizer.train(texts, 300)
    write_jsonl(tmp_path / "d.jsonl", [Document(text=text) for text in texts])
    (facts,) = inspect_data(tmp_path / "d.jsonl", tokenizer=tokenizer).kinds.values()
    assert list(facts.lengths["text", "tokens"]) == [len(tokenizer.encode(text)) for text in texts]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60))
@settings(max_examples=100)
def test_quantiles_against_their_definition(values):
    q = Quantiles.of(values)
    for share, value in ((0.5, q.median), (0.95, q.p95)):
        assert sum(v <= value for v in values) >= share * len(values)
        assert sum(v < value for v in values) < share * len(values)
    assert (q.longest, q.total) == (max(values), sum(values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, naïve Łódź! 123", {"Latin": 14}),
        ("海水是咸的 abc", {"CJK": 5, "Latin": 3}),
        ("日本語のテスト", {"CJK": 3, "kana": 4}),
        ("한국어", {"Hangul": 3}),
        ("Привет", {"Cyrillic": 6}),
        ("αβγ", {"Greek": 3}),
        ("مرحبا", {"Arabic": 5}),
        ("שלום", {"Hebrew": 4}),
        ("สวด", {"Thai": 3}),
        ("नमत", {"Devanagari": 3}),
        ("1 + 1 = 2 🙂", {}),
    ],
)
def test_scripts(text, expected):
    assert scripts_of(text) == expected


def test_inspect_says_what_is_there_and_what_is_wrong(run, tmp_path):
    write_jsonl(tmp_path / "c.jsonl", [talk("hello there", "hi"), talk("more", "yes")])
    (tmp_path / "b.jsonl").write_text('{"instruction": "do", "output": "x"}\n{"instruction": "do"}\n{oh}\n')
    (tmp_path / "t.txt").write_text("words\n")
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    code, out, err = run("inspect", tmp_path)
    assert (code, err) == (0, "")
    for line in (
        "b.jsonl\talpaca\tconversations\t1\t2",
        "c.jsonl\tconversation\tconversations\t2\t0",
        "t.txt\ttext\tdocuments\t1\t0",
        "3 conversations",
        "turns\tmedian 2, 95% 2, longest 2",
        "answer\tcharacters\t3\t2\t3\t3\t6",
        "scripts of the letters\tLatin 100.0%",
        "1\tuser: do",
        f"wrong row: output\t1\t{tmp_path}/b.jsonl:2: field 'output': is missing; expected text, found [\"instruction\"]",
        f"file of another kind\t1\t{tmp_path}/x.png",
    ):
        assert line in out.splitlines()
    assert f"wrong row: not readable\t1\t{tmp_path}/b.jsonl:3: is not JSON at column 2" in out
    assert not set(out) & set("│┃━─\x1b"), "no drawing where nobody sees it"


def test_many_files_are_summed_up(run, tmp_path):
    for i in range(25):
        (tmp_path / f"{i}.txt").write_text("words\n")
    write_jsonl(tmp_path / "c.jsonl", [talk("a", "b")])
    _, out, _ = run("inspect", tmp_path)
    assert "25 files\ttext\tdocuments\t25\t0" in out.splitlines()
    assert "1 files\tconversation\tconversations\t1\t0" in out.splitlines()


def test_on_a_terminal_there_are_tables(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    write_jsonl(tmp_path / "c.jsonl", [talk("[bold]a[/bold]", "b")])
    _, out, _ = run("inspect", tmp_path)
    assert re.search(r"c\.jsonl +conversation +conversations +1 +0", re.sub(r"\x1b\[[\d;]*m", "", out))
    assert "user: [bold]a[/bold]" in out


def test_prompts_and_answers_have_kinds_of_their_own(run, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [Prompt(messages=(Q,), id="1")])
    _, out, _ = run("inspect", "--path", tmp_path / "p.jsonl")
    assert "p.jsonl\tconversation\tprompts\t1\t0" in out.splitlines()


def test_inspect_of_nothing(run, tmp_path):
    code, out, err = run("inspect", tmp_path / "nowhere.jsonl")
    assert (code, out) == (2, "")
    assert err == f"tutelage: {tmp_path}/nowhere.jsonl: there is no such file or folder\n"


def test_inspect_loads_no_torch(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [talk("a", "b")])
    code = f"import sys; from tutelage.cli import app; app.main(['data', 'inspect', {str(tmp_path)!r}])"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# ---- convert


ALPACA = {"instruction": "do", "input": "", "output": "x", "lang": "en"}


@pytest.fixture
def alpaca(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        json.dumps(ALPACA),
        '{"instruction": "do"}',
        json.dumps(ALPACA | {"output": ""}),
        "{'a': 'ü'}",
        json.dumps(ALPACA),
    ]
    path.write_text("".join(row + "\n" for row in rows))
    return path


def test_convert_stops_at_a_bad_row_and_writes_nothing(run, tmp_path, alpaca):
    code, out, err = run("convert", "--path", alpaca, "--out", tmp_path / "o.jsonl", "--rejects", tmp_path / "r.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith(f"tutelage: {alpaca}:2: field 'output': is missing")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("place", ["--out", "--rejects"])
def test_convert_writes_over_nothing_unless_told_to(run, tmp_path, alpaca, place):
    mine = tmp_path / "mine.jsonl"
    mine.write_text("a month of labels")
    other = {"--out": "--rejects", "--rejects": "--out"}[place]
    command = ("convert", "--path", alpaca, place, mine, other, tmp_path / "o.jsonl", "--on_bad", "skip")
    code, out, err = run(*command)
    assert (code, out, err) == (2, "", f"tutelage: {mine} exists already: give another name, or --overwrite\n")
    assert mine.read_text() == "a month of labels"
    assert not (tmp_path / "o.jsonl").exists()
    assert run(*command, "--overwrite")[0] == 0
    assert mine.read_text() != "a month of labels"


def test_convert_skips_counts_and_keeps_the_rejects(run, tmp_path, alpaca):
    out_path, rejects = tmp_path / "o.parquet", tmp_path / "r.jsonl"
    code, out, err = run(
        "convert", "--path", alpaca, "--out", out_path, "--to", "sharegpt", "--on_bad", "skip", "--rejects", rejects
    )
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{out_path}: 2 rows of sharegpt",
        "left out: 1 x wrong row: output, 1 x empty output, 1 x wrong row: not readable",
        f"{rejects}: 3 rejects",
    ]
    got = list(read_conversations(out_path))
    assert [c.messages[1].content for c in got] == ["x", "x"]
    assert got[0].meta == {"lang": "en"}
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["place"], row["reason"], row["text"]) for row in rows] == [
        (f"{alpaca}:2", "wrong row: output", '{"instruction": "do"}'),
        (f"{alpaca}:3", "empty output", json.dumps(ALPACA | {"output": ""})),
        (f"{alpaca}:4", "wrong row: not readable", "{'a': 'ü'}"),
    ]
    assert rows[0]["problem"].startswith(f"{alpaca}:2: field 'output': is missing; expected text")


def test_rejected_bytes_and_rows_of_arrays_and_tables_keep_their_text(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jsonl").write_bytes(json.dumps(ALPACA).encode() + b'\n{"a": "\xe9"}\n')
    (tmp_path / "a" / "2.json").write_text(json.dumps([ALPACA, {"instruction": 3, "output": "x"}], indent=1))
    write = run(
        "convert", "--path", tmp_path / "a" / "2.json", "--out", tmp_path / "a" / "3.parquet", "--on_bad", "skip"
    )
    assert write[0] == 0
    run(
        "convert",
        "--path",
        tmp_path / "a",
        "--out",
        tmp_path / "o.jsonl",
        "--on_bad",
        "skip",
        "--rejects",
        tmp_path / "r.jsonl",
    )
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert rows[0]["text"] == '{"a": "\\xe9"}'
    assert rows[1]["place"] == f"{tmp_path}/a/2.json: row 2"
    assert json.loads(rows[1]["text"]) == {"instruction": 3, "output": "x"}


def test_a_rejected_line_of_text_keeps_its_bytes(run, tmp_path):
    (tmp_path / "t.txt").write_bytes(b"one\nna\xefve\r\nthree\n")
    options = ("--on_bad", "skip", "--rejects", tmp_path / "r.jsonl")
    assert run("convert", "--path", tmp_path / "t.txt", "--out", tmp_path / "o.txt", *options)[0] == 0
    assert (tmp_path / "o.txt").read_text() == "one\nthree\n"
    (row,) = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert (row["place"], row["text"]) == (f"{tmp_path}/t.txt:2", "na\\xefve")


def test_k_wise_rankings_become_pairs_only_when_asked(run, tmp_path):
    path, out_path = tmp_path / "r.jsonl", tmp_path / "p.jsonl.gz"
    write_jsonl(path, [ranking(1, 2, 2, labeller="ann"), ranking(2, 1), ranking(1, 1)])
    code, _, err = run("convert", "--path", path, "--out", out_path, "--to", "preference")
    assert code == 2
    assert (
        "record 1 (of r.jsonl) cannot be written as preference: it ranks 3 answers, and this format holds pairs" in err
    )
    assert not out_path.exists()
    code, out, _ = run("convert", "--path", path, "--out", out_path, "--to", "preference", "--pairs")
    assert code == 0
    assert out.splitlines() == [
        f"{out_path}: 3 rows of preference",
        "pairs: 1 rankings of more than two became 2 pairs; 2 ties left out",
        "no place in preference: labeller (2)",
        "left out: nothing",
    ]
    assert gzip.decompress(out_path.read_bytes()).count(b"\n") == 3
    texts = [[c.text for c in r.completions] for r in read_rankings(out_path)]
    assert texts == [["answer 0", "answer 1"], ["answer 0", "answer 2"], ["answer 1", "answer 0"]]


def test_a_folder_of_all_formats_of_rankings_becomes_one_file(run, tmp_path):
    (tmp_path / "in").mkdir()
    hh = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(hh) + "\n")
    (tmp_path / "in" / "b.json").write_text(json.dumps([{"prompt": "q", "chosen": "c", "rejected": "d", "lang": "en"}]))
    code, _, _ = run("convert", "--path", tmp_path / "in", "--out", tmp_path / "o.jsonl")
    assert code == 0
    got = list(read_rankings(tmp_path / "o.jsonl"))
    assert [(r.completions[0].text, r.source, r.prompt.meta) for r in got] == [
        ("a", "a.jsonl", {}),
        ("c", "b.json", {"lang": "en"}),
    ]


def test_what_is_written_may_ask_for_another_kind_than_the_files_own(run, tmp_path, alpaca):
    code, _, _ = run("convert", "--path", alpaca, "--out", tmp_path / "p.jsonl", "--to", "prompt", "--on_bad", "skip")
    assert code == 0
    assert [p.messages[0].content for p in read_prompts(tmp_path / "p.jsonl")] == ["do", "do"]
    code, _, err = run("convert", "--path", alpaca, "--out", tmp_path / "q.jsonl", "--to", "hh", "--on_bad", "skip")
    assert code == 2
    assert "holds another kind of data; expected Rankings" in err


def test_texts_become_documents_and_back(run, tmp_path):
    (tmp_path / "t.txt").write_bytes("naïve\n".encode("latin-1"))
    code, _, _ = run("convert", "--path", tmp_path / "t.txt", "--out", tmp_path / "d.parquet", "--encoding", "latin-1")
    assert code == 0
    assert [d.text for d in read_documents(tmp_path / "d.parquet")] == ["naïve\n"]
    assert run("convert", "--path", tmp_path / "d.parquet", "--out", tmp_path / "u.txt")[0] == 0
    assert (tmp_path / "u.txt").read_text(encoding="utf-8") == "naïve\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "o.csv"], "the ending says what is written"),
        (["--out", "o.jsonl", "--to", "alpace"], "there is no format 'alpace' to write; there are ranking, answers"),
        (["--out", "o.jsonl", "--to", "text"], "bare text is written as .txt"),
        (["--out", "a.jsonl"], "what is read is not overwritten"),
        (["--out", "o.jsonl", "--rejects", "o.jsonl"], "what is read is not overwritten"),
        (["--out", "o.jsonl", "--format", "hh"], "a.jsonl:1: field 'chosen': is missing"),
        (["--out", "o.jsonl", "--pairs", "--on_bad", "skip"], "--pairs is for rankings"),
        (["--out", "o.jsonl", "--on_bad", "ignore"], "for --on_bad. Choose from"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, monkeypatch, alpaca, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", "--path", "a.jsonl", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
