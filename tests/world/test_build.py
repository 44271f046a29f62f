"""The world's files: what is held out stays out, planted leaks are found, and equal settings give equal bytes."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.errors import DataError, RecipeError
from tutelage.records import Conversation, Document, Message, Prompt
from tutelage.world import build
from tutelage.world.build import WorldData, WorldSettings, build_world, draw_world_data, load_judge
from tutelage.world.facts import RELATIONS
from tutelage.world.leaks import LeakFinder, check_leaks, heldout_wording, problem_of, subjects_of, text_of
from tutelage.world.tasks import FAMILIES, WEIGHTS
from tutelage.world.trainers import CLEAN

SMALL = WorldSettings(
    people=24, towns=8, documents=1200, heldout_documents=40, demonstrations=240, heldout_demonstrations=40, prompts=240,
    heldout_prompts=120,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    build_world(SMALL, out)
    return out


@pytest.fixture(scope="module")
def data() -> WorldData:
    return draw_world_data(SMALL)


def checked(data: WorldData, **changes: list[object]) -> dict[str, int]:
    return check_leaks({**data.files, **changes}, data.heldout_entities)


def hashes(folder: Path) -> dict[str, str]:
    return json.loads((folder / "world.json").read_text())["sha256"]


def test_every_line_is_a_record_and_every_count_is_true(folder: Path) -> None:
    counts = json.loads((folder / "world.json").read_text())["counts"]
    for name, kind in {"documents": Document, "demonstrations": Conversation, "prompts": Prompt}.items():
        for file in (name, f"{name}_heldout"):
            lines = (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
            assert len([kind.model_validate_json(line) for line in lines]) == counts[file]
    assert {name: counts[name] for name in ("demonstrations", "prompts", "prompts_heldout", "documents_heldout")} == {
        "demonstrations": 240, "prompts": 240, "prompts_heldout": 120, "documents_heldout": 40,
    }  # fmt: skip
    assert counts["searched_documents"] == counts["documents"]
    assert counts["searched_conversations"] == 240 + 40 + 240


def test_two_builds_are_equal_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    """In another process with another hash seed, so that no order of a set can hide in the files."""
    command = (
        "import sys; from pathlib import Path; from tutelage.world.build import *;"
        "build_world(WorldSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", command, SMALL.model_dump_json(), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    assert hashes(tmp_path) == hashes(folder)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_the_files_stay_what_they_are(folder: Path) -> None:
    """Choices pick by index, so a text that is moved within a wordings file changes these; change them only on purpose."""
    assert {name: digest[:8] for name, digest in hashes(folder).items()} == {
        "documents.jsonl": "f5d5ab0a", "documents_heldout.jsonl": "e5720384",
        "demonstrations.jsonl": "0fc68cdb", "demonstrations_heldout.jsonl": "0768f8ca",
        "prompts.jsonl": "c28e54b0", "prompts_heldout.jsonl": "c2cd5b37",
    }  # fmt: skip


def test_another_seed_gives_other_files(folder: Path, tmp_path: Path) -> None:
    build_world(SMALL.model_copy(update={"seed": 1}), tmp_path)
    assert not set(hashes(tmp_path).values()) & set(hashes(folder).values())


def test_held_out_prompts_ask_about_held_out_entities_in_held_out_wordings(data: WorldData) -> None:
    heldout = set(data.heldout_entities)
    for kind in RELATIONS:  # a quarter of each kind
        keys = data.world.subjects(kind)
        assert sum(key in heldout for key in keys) == round(0.25 * len(keys))
    asked = {prompt.meta["entity"] for prompt in data.files["prompts_heldout"]} - {""}
    assert asked
    assert asked <= heldout
    for prompt in data.files["prompts_heldout"]:
        family, language = FAMILIES[prompt.meta["family"]], prompt.meta["language"]
        assert prompt.meta["template"] in family.templates(language, "heldout")
    training = [*data.files["prompts"], *data.files["demonstrations"], *data.files["demonstrations_heldout"]]
    for record in training:
        assert record.meta["entity"] not in heldout
        assert record.meta["check"].get("subject") not in heldout
        assert not heldout & set(record.meta["check"].get("via", ()))


def test_documents_tell_of_everybody(data: WorldData) -> None:
    told = {fact.split(".")[0] for document in data.files["documents"] for fact in document.meta.get("facts", ())}
    assert told >= set(data.heldout_entities)


def test_held_out_prompts_are_balanced(data: WorldData) -> None:
    families = Counter(prompt.meta["family"] for prompt in data.files["prompts_heldout"])
    assert set(families) == set(FAMILIES) == set(WEIGHTS)
    round_, rest = divmod(120, sum(WEIGHTS.values()))
    chinese = Counter(p.meta["family"] for p in data.files["prompts_heldout"] if p.meta["language"] == "zh")
    for family, weight in WEIGHTS.items():
        assert round_ * weight <= families[family] <= (round_ + (rest > 0)) * weight
        assert chinese[family] == int(0.3 * families[family] + 1e-9)


def test_prompts_differ_from_each_other(data: WorldData) -> None:
    def asked(record: Prompt | Conversation) -> str:
        return text_of(Prompt(messages=record.messages[:-1]) if isinstance(record, Conversation) else record)

    texts = {name: [asked(r) for r in records] for name, records in data.files.items() if "documents" not in name}
    for name in ("prompts", "prompts_heldout", "demonstrations_heldout"):
        assert len(set(texts[name])) == len(texts[name])
    for held in ("prompts_heldout", "demonstrations_heldout"):
        for name in set(texts) - {held}:
            assert not set(texts[held]) & set(texts[name])


def test_held_out_documents_are_new_and_clean(data: WorldData) -> None:
    assert not {d.text for d in data.files["documents"]} & {d.text for d in data.files["documents_heldout"]}
    assert not any("dirt" in d.meta for d in data.files["documents_heldout"])
    assert any("dirt" in d.meta for d in data.files["documents"])
    spotless = draw_world_data(SMALL.model_copy(update={"dirt": 0.0}))
    assert not any("dirt" in d.meta for d in spotless.files["documents"])


def test_a_held_out_document_that_training_has_too_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(world: object, *, count: int, seed: int) -> Iterator[Document]:
        return (Document(text=f"text {2 * i if seed == SMALL.seed else i}") for i in range(count))

    monkeypatch.setattr(build, "documents", numbers)
    heldout = draw_world_data(SMALL).files["documents_heldout"]
    assert [document.text for document in heldout] == [f"text {2 * i + 1}" for i in range(40)]


def test_clean_rates_give_clean_demonstrations() -> None:
    data = draw_world_data(SMALL.model_copy(update={"rates": CLEAN, "documents": 10}))
    assert all(d.meta["flaws"] == [] for d in data.files["demonstrations"])


def test_nothing_leaks_and_the_search_is_counted(data: WorldData) -> None:
    assert checked(data) == {
        "searched_documents": len(data.files["documents"]),
        "searched_conversations": 240 + 40 + 240,
    }


def asks(prompt: Prompt, text: str, **meta: object) -> Prompt:
    return Prompt(messages=(Message(role="user", content=text),), id="planted", meta={**prompt.meta, **meta})


def test_a_held_out_prompt_within_a_document_is_found(data: WorldData) -> None:
    words = "\n".join(m.content for m in data.files["prompts_heldout"][7].messages if m.role != "system")
    text = f"Some words before. {words.upper().replace(' ', '  ')} And after."
    with pytest.raises(DataError, match="a document contains a held-out prompt"):
        checked(data, documents=[*data.files["documents"], Document(text=text)])


def test_a_held_out_prompt_within_a_demonstration_is_found(data: WorldData) -> None:
    stolen, honest = data.files["prompts_heldout"][3], data.files["demonstrations"][0]
    planted = Conversation(messages=(*stolen.messages, Message(role="assistant", content="?")), meta=honest.meta)
    with pytest.raises(DataError, match=r"demonstration 240 contains a held-out prompt"):
        checked(data, demonstrations=[*data.files["demonstrations"], planted])


def test_a_held_out_wording_is_found(data: WorldData) -> None:
    """With the number of a wording of training, so that only the words themselves can tell."""
    honest = next(p for p in data.files["prompts"] if p.meta["family"] == "closed_book" and p.meta["language"] == "en")
    name = data.world.name(honest.meta["entity"], "en")
    known = FAMILIES["closed_book"].wordings["en"].texts
    heldout = next(known[i] for i in FAMILIES["closed_book"].templates("en", "heldout") if "{c}" in known[i])
    planted = asks(honest, heldout.replace("{c}", f"where {name} lives"))
    assert heldout_wording(honest) is None
    with pytest.raises(DataError, match="prompt planted has the held-out wording"):
        checked(data, prompts=[*data.files["prompts"], planted])


def test_every_held_out_prompt_shows_its_wording(data: WorldData) -> None:
    for prompt in data.files["prompts_heldout"]:
        template = FAMILIES[prompt.meta["family"]].wordings[prompt.meta["language"]].texts[prompt.meta["template"]]
        by_words_alone = prompt.model_copy(update={"meta": {**prompt.meta, "template": 0}})
        assert heldout_wording(by_words_alone) is not None, template


def test_a_held_out_entity_is_found(data: WorldData) -> None:
    honest = next(p for p in data.files["prompts"] if p.meta["family"] == "two_hop")
    stolen = data.heldout_entities[0]
    with pytest.raises(DataError, match=f"asks about {stolen}, held out"):
        checked(data, prompts=[honest.model_copy(update={"meta": {**honest.meta, "entity": stolen}})])
    for part in ({"subject": stolen}, {"via": [stolen]}):  # at the end, or on the way
        meta = {**honest.meta, "check": {**honest.meta["check"], **part}}
        with pytest.raises(DataError, match=f"asks about {stolen}, held out"):
            checked(data, prompts=[honest.model_copy(update={"meta": meta})])


def test_a_held_out_problem_is_found(data: WorldData) -> None:
    held = next(p for p in data.files["prompts_heldout"] if p.meta["family"] == "sum")
    check = held.meta["check"]
    turned = {**check, "a": check["b"], "b": check["a"], "length": 99.0}  # b + a is the same sum
    honest = next(p for p in data.files["prompts"] if p.meta["family"] == "sum")
    planted = asks(honest, f"{check['b']} + {check['a']} = ?", check=turned)
    with pytest.raises(DataError, match="prompt planted poses the problem of a held-out prompt"):
        checked(data, prompts=[planted])


def test_a_held_out_prompt_that_is_not_held_out_is_found(data: WorldData) -> None:
    held = next(p for p in data.files["prompts_heldout"] if p.meta["entity"])
    known = next(key for key in data.world.people if key not in data.heldout_entities)
    with pytest.raises(DataError, match=f"asks about {known}, which is not held out"):
        checked(data, prompts_heldout=[held.model_copy(update={"meta": {**held.meta, "entity": known}})])
    with pytest.raises(DataError, match="has a wording of training"):
        checked(data, prompts_heldout=[held.model_copy(update={"meta": {**held.meta, "template": 0}})])


def test_finder_against_plain_search(data: WorldData) -> None:
    texts = [text_of(prompt) for prompt in data.files["prompts_heldout"]]
    finder = LeakFinder(data.files["prompts_heldout"])
    for i, text in enumerate(texts):
        for hay in (text, f"x{text}y", text[:-1], text[1:], f"{text[:8]} {text}"):
            assert (finder.find(hay) is not None) == any(t in " ".join(hay.split()) for t in texts), (i, hay)
    assert LeakFinder([]).find("anything") is None


def test_problems_know_what_is_the_same(data: WorldData) -> None:
    for family in ("sum", "copy_list", "python", "passage_question", "grammar", "brainstorm"):
        prompt = next(p for p in data.files["prompts"] if p.meta["family"] == family)
        assert (problem_of(prompt) is not None) == (family != "brainstorm")
    for family in ("closed_book", "two_hop"):
        prompt = next(p for p in data.files["prompts"] if p.meta["family"] == family)
        assert problem_of(prompt) is None
        assert prompt.meta["entity"] in subjects_of(prompt)


def test_the_judge_of_a_folder_is_of_its_world(folder: Path, data: WorldData) -> None:
    assert load_judge(folder).world == data.world
    line = (folder / "prompts_heldout.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert 0.0 <= load_judge(folder).judge(Prompt.model_validate_json(line), "I do not know.", True).score <= 1.0


def test_a_folder_without_a_world_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"world\.json"):
        load_judge(tmp_path)


def test_a_family_that_runs_out_repeats_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brainstorming alone has at most 2754 prompts: trainers answer some twice, prompts differ but may be among theirs."""
    monkeypatch.setattr(build, "WEIGHTS", {"brainstorm": 1})
    data = draw_world_data(SMALL.model_copy(update={"documents": 10, "demonstrations": 4000, "prompts": 150}))
    demonstrated = {text_of(Prompt(messages=d.messages[:-1])) for d in data.files["demonstrations"]}
    asked = [text_of(prompt) for prompt in data.files["prompts"]]
    assert len(data.files["demonstrations"]) == 4000
    assert len(demonstrated) <= 2754
    assert len(set(asked)) == len(asked) == 150
    assert demonstrated & set(asked)
    assert not demonstrated & {text_of(Prompt(messages=d.messages[:-1])) for d in data.files["demonstrations_heldout"]}


def test_too_many_prompts_for_the_world_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "WEIGHTS", {"brainstorm": 1})
    with pytest.raises(RecipeError, match=r"world\.heldout_prompts is 5000, but there are only [89]\d\d such prompts"):
        draw_world_data(SMALL.model_copy(update={"heldout_prompts": 5000}))


def test_a_prompt_that_contains_a_held_out_one_is_drawn_anew():
    """At seed 2 a question about a stranger behind a passage is, without the passage, a held-out prompt."""
    knobs = {"people": 16, "towns": 6, "values": 8, "documents": 100, "demonstrations": 10, "prompts": 12000}
    held = {"heldout_prompts": 2400, "heldout_documents": 10, "heldout_demonstrations": 10}
    data = draw_world_data(WorldSettings(seed=2, **knobs, **held))
    check_leaks(data.files, data.heldout_entities)
