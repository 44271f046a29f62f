"""One's own files, split: what is held out is nowhere else, and what is left out is counted."""

import json
import logging

import pytest

from tutelage.data.formats import read_conversations, read_prompts, read_rankings, write_jsonl
from tutelage.data.prepare import PrepareInputs, PrepareSettings, gather, main, opening, prepare, questions
from tutelage.errors import DataError
from tutelage.records import Completion, Conversation, Document, Message, Prompt, Ranking


def talk(*texts):
    """Turns of user and assistant in turn."""
    return tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))


def ask(*texts):
    return Prompt(messages=talk(*texts))


def show(*texts):
    return Conversation(messages=talk(*texts))


def rank(*texts, good="good", bad="bad"):
    return Ranking(prompt=ask(*texts), completions=(Completion(text=good), Completion(text=bad)), ranks=(1, 2))


def texts(messages):
    return tuple(message.content for message in messages)


SPARE = 40
"""Records of each kind that have nothing to do with the others."""


@pytest.fixture
def made(tmp_path):
    """The counts and the records in each file, of what is given and some records beside it."""

    def made(heldout=(), demonstrations=(), rankings=(), prompts=(), share=0.3):
        given = {
            "heldout_prompts": [*heldout, ask("held out")],
            "demonstrations": [*demonstrations, *(show(f"d{i}", "a") for i in range(SPARE))],
            "rankings": [*rankings, *(rank(f"r{i}") for i in range(SPARE))],
            "prompts": [*prompts, ask("p")],
        }
        for name, records in given.items():
            write_jsonl(tmp_path / "in" / f"{name}.jsonl", records)
        write_jsonl(tmp_path / "in" / "text.jsonl", (Document(text=f"text {i}") for i in range(SPARE)))
        files = {name: {"own": tmp_path / "in" / f"{name}.jsonl"} for name in (*given, "text")}
        knobs = PrepareSettings(heldout={"own": 0.5}, heldout_share=0.1, heldout_rankings_share=share)
        counts = prepare(knobs, PrepareInputs(**files), tmp_path / "out")

        def read(reader, name):
            path = tmp_path / "out" / f"{name}.jsonl"
            return list(reader(path)) if path.stat().st_size else []

        def ranked(name):
            return [(*texts(r.prompt.messages), r.completions[0].text) for r in read(read_rankings, name)]

        return counts, {
            "demonstrations": [texts(c.messages) for c in read(read_conversations, "demonstrations")],
            "demonstrations_heldout": [texts(c.messages) for c in read(read_conversations, "demonstrations_heldout")],
            "rankings": ranked("rankings"),
            "rankings_heldout": ranked("rankings_heldout"),
            "prompts": [texts(p.messages) for p in read(read_prompts, "prompts")],
            "prompts_heldout": [texts(p.messages) for p in read(read_prompts, "prompts_heldout")],
        }

    return made


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"heldout_share": 0.001},
            r"none of \d+ demonstrations is held out to measure on; raise heldout_share \(0\.001\)",
        ),
        ({"heldout_rankings_share": 0.001}, r"none of \d+ rankings is held out .* raise heldout_rankings_share"),
        ({"heldout": {"own": 0.0}}, "no text is held out"),
        ({"heldout_share": 0.999999}, "all demonstrations are held out"),
    ],
)
def test_what_would_be_an_empty_file_is_said_before_anything_is_written(made, tmp_path, knobs, message):
    made()  # writes the inputs
    kinds = ("text", "demonstrations", "rankings", "prompts", "heldout_prompts")
    inputs = PrepareInputs(**{name: {"own": tmp_path / "in" / f"{name}.jsonl"} for name in kinds})
    settings = {"heldout": {"own": 0.5}, "heldout_share": 0.2, "heldout_rankings_share": 0.2} | knobs
    with pytest.raises(DataError, match=message):
        main(PrepareSettings(**settings), inputs, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("text", "share", "kept", "apart"),
    [
        ("one two\n\nthree\nfour five\n\nsix seven", 0.6, "one two\n\nthree\nfour five", "six seven"),
        ("one two\nthree four\nfive six", 0.5, "one two\nthree four", "five six"),
        ("one two three four", 0.25, "one two three", "four"),
        ("一二三四五六七八九十", 0.3, "一二三四五六七", "八九十"),
    ],
)
def test_the_end_of_a_single_document_is_held_out(tmp_path, text, share, kept, apart):
    (tmp_path / "novel.txt").write_text(text)
    inputs = PrepareInputs(text={"own": tmp_path / "novel.txt"})
    main(PrepareSettings(heldout={"own": share}), inputs, tmp_path / "out")
    files = (tmp_path / "out" / "text" / "own.jsonl", tmp_path / "out" / "documents_heldout.jsonl")
    assert [[json.loads(line)["text"] for line in file.open()] for file in files] == [[kept], [apart]]


def test_a_single_document_of_which_nothing_is_held_out_stays_as_it_is(tmp_path):
    (tmp_path / "novel.txt").write_text("one two \n\n")
    write_jsonl(tmp_path / "more.jsonl", [Document(text=f"text {i}") for i in range(20)])
    inputs = PrepareInputs(text={"own": tmp_path / "novel.txt", "more": tmp_path / "more.jsonl"})
    main(PrepareSettings(heldout={"more": 0.5}), inputs, tmp_path / "out")
    (row,) = (tmp_path / "out" / "text" / "own.jsonl").read_text().splitlines()
    assert json.loads(row)["text"] == "one two \n\n"


def test_texts_without_a_training_part_are_refused(tmp_path):
    inputs = PrepareInputs(text={"own": tmp_path / "text.jsonl"})
    write_jsonl(tmp_path / "text.jsonl", [Document(text="a"), Document(text="b")])
    with pytest.raises(DataError, match=r"text\.jsonl: text own: all its 2 documents are held out; lower heldout\.own"):
        main(PrepareSettings(heldout={"own": 1.0}), inputs, tmp_path / "out")
    write_jsonl(tmp_path / "text.jsonl", [Document(text="a")])
    with pytest.raises(DataError, match="no text is held out"):
        main(PrepareSettings(heldout={"own": 0.2}), inputs, tmp_path / "out")


def test_some_rankings_are_for_a_judge(tmp_path):
    """A third of the prompts that are not held out, each prompt on one side."""
    write_jsonl(tmp_path / "r.jsonl", [rank(f"q{i % 300}", good=f"a{i}") for i in range(600)])
    inputs = PrepareInputs(rankings={"own": tmp_path / "r.jsonl"})
    knobs = PrepareSettings(heldout_rankings_share=0.2, judge_share=0.33)
    main(knobs, inputs, tmp_path / "out")
    parts = {}
    for name in ("rankings", "rankings_judge", "rankings_heldout"):
        parts[name] = [texts(r.prompt.messages) for r in read_rankings(tmp_path / "out" / f"{name}.jsonl")]
    assert sum(map(len, parts.values())) == 600
    for one, other in (
        ("rankings", "rankings_judge"),
        ("rankings", "rankings_heldout"),
        ("rankings_judge", "rankings_heldout"),
    ):
        assert not set(parts[one]) & set(parts[other])
    assert len(parts["rankings_judge"]) / (600 - len(parts["rankings_heldout"])) == pytest.approx(0.33, abs=0.1)
    main(PrepareSettings(heldout_rankings_share=0.2), inputs, tmp_path / "none")
    assert not (tmp_path / "none" / "rankings_judge.jsonl").exists()
    heldout = [(tmp_path / name / "rankings_heldout.jsonl").read_text() for name in ("out", "none")]
    assert heldout[0] == heldout[1]


def test_rankings_that_are_all_ties_are_refused(tmp_path):
    tied = [rank(f"q{i}").model_copy(update={"ranks": (1, 1)}) for i in range(20)]
    write_jsonl(tmp_path / "r.jsonl", tied)
    with pytest.raises(DataError, match="all rankings are ties"):
        main(PrepareSettings(), PrepareInputs(rankings={"own": tmp_path / "r.jsonl"}), tmp_path / "out")
    write_jsonl(tmp_path / "r.jsonl", [*tied, *(rank(f"p{i}") for i in range(20))])
    main(PrepareSettings(), PrepareInputs(rankings={"own": tmp_path / "r.jsonl"}), tmp_path / "out")


def test_what_was_written_is_said(made, tmp_path, capsys):
    made()
    inputs = PrepareInputs(prompts={"own": tmp_path / "in" / "prompts.jsonl"})
    main(PrepareSettings(), inputs, tmp_path / "again")
    assert capsys.readouterr().out == f"{tmp_path / 'again'}: prompts 1\n"


def test_bad_rows_are_left_out_on_request(made, tmp_path):
    made()
    with (tmp_path / "in" / "demonstrations.jsonl").open("a") as file:
        file.write('{"messages": 3}\n')
    kinds = ("text", "demonstrations", "rankings", "prompts", "heldout_prompts")
    inputs = PrepareInputs(**{name: {"own": tmp_path / "in" / f"{name}.jsonl"} for name in kinds})
    knobs = PrepareSettings(heldout={"own": 0.5}, heldout_share=0.2, heldout_rankings_share=0.2)
    with pytest.raises(DataError, match=rf"demonstrations\.jsonl:{SPARE + 1}: field 'messages'"):
        main(knobs, inputs, tmp_path / "again")
    main(knobs.model_copy(update={"on_bad": "skip"}), inputs, tmp_path / "again")


def test_what_a_conversation_asks():
    assert questions(talk("q", "a", "and?", "b")) >= {"user: q", "user: q\nassistant: a\nuser: and?"}
    assert questions(talk("q")) == {"user: q"}
    assert "user: q\nassistant: a" not in questions(talk("q", "a", "and?"))
    greeted = (
        Message(role="system", content="be"),
        Message(role="assistant", content="hello"),
        *talk("q", "a", "r", "b"),
    )
    assert opening(greeted) == "system: be\nassistant: hello\nuser: q"
    assert opening(talk("q")) == opening(talk("q", "a", "and?")) == "user: q"


def test_a_held_out_prompt_of_several_turns_is_asked_nowhere(made):
    prompt = ("q", "a", "and?")
    counts, got = made(
        heldout=[ask(*prompt)],
        demonstrations=[show(*prompt, "SECRET"), show(*prompt, "SECRET", "more?", "more"), show("q", "a")],
        rankings=[rank(*prompt), rank(*prompt, "SECRET", "more?")],
        prompts=[ask(*prompt), ask(*prompt, "SECRET", "more?"), ask("q")],
    )
    for name in ("demonstrations", "demonstrations_heldout", "rankings", "rankings_heldout", "prompts"):
        assert not [turns for turns in got[name] if turns[:3] == prompt], name
    assert ("q", "a") in got["demonstrations"] + got[
        "demonstrations_heldout"
    ]  # asks something else, as does the prompt
    assert got["prompts"] == [("q",), ("p",)]
    assert [counts[f"left_out_{name}"] for name in ("demonstrations", "rankings", "prompts")] == [2, 2, 2]


def test_held_out_rankings_are_of_dialogues_that_training_has_not_seen(made):
    rankings = [r for i in range(30) for r in (rank(f"q{i}", good=f"a{i}"), rank(f"q{i}", f"a{i}", "and?"))]
    demonstrations = [show(f"q{i}", f"a{i}", "and?", "b") for i in range(30)]
    counts, got = made(rankings=rankings, demonstrations=demonstrations)
    heldout = {turns[0] for turns in got["rankings_heldout"]}
    assert {f"q{i}" for i in range(30)} & heldout
    assert heldout.isdisjoint(turns[0] for turns in got["rankings"])
    assert heldout.isdisjoint(turns[0] for turns in got["demonstrations"])
    assert counts["rankings"] + counts["rankings_heldout"] == 60 + SPARE
    shown = counts["demonstrations"] + counts["demonstrations_heldout"]
    assert counts["left_out_demonstrations"] == 30 + SPARE - shown > 0


def test_demonstrations_are_held_out_where_rankings_have_the_same_openings(made):
    _, got = made(rankings=[rank(f"d{i}") for i in range(SPARE)])
    assert got["demonstrations_heldout"]
    assert {turns[0] for turns in got["demonstrations_heldout"]}.isdisjoint(turns[0] for turns in got["demonstrations"])


def test_what_is_left_out_is_counted_and_said(made, caplog):
    with caplog.at_level(logging.WARNING):
        counts, got = made(
            heldout=[ask("q"), ask("q"), ask("q")],
            demonstrations=[show("q", "a"), show("same", "a")],
            rankings=[rank("q"), rank("same")],
            prompts=[ask("q"), ask("p"), ask("new"), ask("new")],
            share=0.999999,
        )
    assert got["prompts_heldout"] == [("q",), ("held out",)]
    assert sorted(got["prompts"]) == [("new",), ("p",)]
    left_out = {name: count for name, count in counts.items() if name.startswith("left_out")}
    assert left_out == {
        "left_out_prompts_heldout": 2,
        "left_out_demonstrations": 2,
        "left_out_rankings": 1,
        "left_out_prompts": 3,
    }
    (line,) = caplog.messages
    assert line.endswith(
        "left out 2 x held-out prompt given before, 1 x demonstration that asks a held-out prompt, "
        "1 x demonstration that opens like a held-out ranking, 1 x ranking that asks a held-out prompt, "
        "1 x prompt that asks a held-out prompt, 2 x prompt given before"
    )


def test_where_nothing_is_left_out_nothing_is_said(made, caplog):
    with caplog.at_level(logging.WARNING):
        counts, _ = made()
    assert {counts[name] for name in counts if name.startswith("left_out")} == {0}
    assert caplog.messages == []


def test_a_limit_keeps_the_rows_that_it_kept_before_records_gained_fields(tmp_path):
    """The numbers are those of version 0.1.0, whose records had no tool calls, evidence, notes and weights."""

    def asked(i):
        return [{"role": "user", "content": f"Question {i}? 好"}]

    answer = {"role": "assistant", "content": "Answer."}
    files = {
        "c": [
            {"messages": [*asked(i), answer | {"content": f"Answer {i}."}], "meta": {"n": i, "x": i / 3}}
            for i in range(40)
        ],
        "r": [
            {
                "prompt": {"messages": asked(i), "id": str(i)},
                "completions": [{"text": "a", "seed": i}, {"text": "b"}],
                "ranks": [1, 2],
            }
            for i in range(40)
        ],
        "p": [{"messages": asked(i), "id": str(i)} for i in range(40)],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row | {"source": "s"}) + "\n" for row in rows))

    def kept(read, name):
        return gather({"a": tmp_path / f"{name}.jsonl"}, {"a": 6}, read, 11)

    assert [c.meta["n"] for c in kept(read_conversations, "c")] == [24, 20, 32, 9, 0, 3]
    assert [int(r.prompt.id) for r in kept(read_rankings, "r")] == [9, 38, 16, 26, 17, 28]
    assert [int(p.id) for p in kept(read_prompts, "p")] == [34, 23, 29, 1, 36, 27]


def test_a_limit_of_a_text_counts_its_documents(tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": f"Text {i}."}) + "\n" for i in range(40)))
    knobs = PrepareSettings(limit={"text": {"t": 10}}, heldout={"t": 0.3}, seed=1)
    counts = prepare(knobs, PrepareInputs(text={"t": tmp_path / "t.jsonl"}), tmp_path)
    assert counts["documents_t"] + counts["documents_heldout"] == 10


def test_groups_that_are_not_given_have_no_files(tmp_path):
    """Somebody with a few demonstrations alone needs no empty files for the rest."""
    rows = [{"prompt": f"{number}?", "completion": "Yes."} for number in range(30)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs, knobs = PrepareInputs(demonstrations={"own": tmp_path / "own.jsonl"}), PrepareSettings(heldout_share=0.3)
    counts = prepare(knobs, inputs, tmp_path / "out")
    files = ("demonstrations.jsonl", "demonstrations_heldout.jsonl")
    assert tuple(sorted(path.name for path in (tmp_path / "out").iterdir())) == knobs.writes(inputs) == files
    assert counts["demonstrations"] + counts["demonstrations_heldout"] == 30
