"""A template's own system prompt is what every stage learns behind, and what the assistant answers behind."""

from __future__ import annotations

import pytest
import torch
from random_start import PROMPTS, Start, make_start
from recording import recorded
from test_bad_rows import STAGES
from test_stage_wiring import DEMONSTRATIONS, RANKINGS

from tutelage.assistant.assistant import Assistant
from tutelage.data.formats import write_jsonl
from tutelage.model.checkpoint import load_model
from tutelage.records import Document
from tutelage.text.tokenizer import Tokenizer

TEMPLATE = """{%- if messages[0].role != "system" -%}{{ bos_token + "system: text" + eos_token }}{%- endif -%}
{%- for m in messages -%}{{- bos_token + m.role + ": " + m.content + eos_token -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{ bos_token + "assistant: " }}{%- endif -%}"""


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> Start:
    start = make_start(tmp_path_factory.mktemp("system"))
    tokenizer = Tokenizer.load(start.folder / "sft", chat_template=TEMPLATE)
    for name in ("sft", "reward"):
        tokenizer.save(start.folder / name)
    for name, records in (("demonstrations", DEMONSTRATIONS), ("heldout", DEMONSTRATIONS), ("rankings", RANKINGS)):
        write_jsonl(start.folder / f"{name}.jsonl", records)
    write_jsonl(start.folder / "chinese.jsonl", [Document(text="红色的门，蓝色的帽子。")] * 3)
    return Start(start.folder, tokenizer)


@pytest.fixture(scope="module")
def asked(begin):
    """The ids of what a user says, up to where the answer begins, as transformers writes them."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(begin.folder / "sft")

    def ids(text: str) -> list[int]:
        found = theirs.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        return found["input_ids"] if hasattr(found, "keys") else found

    assert "system: text" in theirs.decode(ids("?"))
    return ids


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_stages_learn_behind_it(begin, asked, tmp_path, monkeypatch, stage):
    with recorded(monkeypatch) as record:
        STAGES[stage](begin, tmp_path / "run").run()
    rows = set().union(*(step.rows for step in record.steps))
    short = [d.messages[0] for d in DEMONSTRATIONS if len(d.messages) == 2]  # longer ones are cut at the front
    for message in {"sft": short, "reward": [r.prompt.messages[0] for r in RANKINGS]}[stage]:
        opening = tuple(asked(message.content))
        assert any(row[: len(opening)] == opening for row in rows), message.content


def test_ppo_samples_behind_it_and_the_assistant_answers_behind_it(begin, asked, tmp_path, monkeypatch):
    with recorded(monkeypatch) as record:
        checkpoint = STAGES["ppo"](begin, tmp_path / "run").run()
    expected = [asked(prompt.messages[0].content) for prompt in PROMPTS]
    sampled = [request.ids for drawn in record.drawn for request in drawn.requests]
    assert sampled
    assert all(ids in expected for ids in sampled)
    seen = []

    class Watching:
        def submit(self, request, **options):
            seen.append(request.ids)
            raise InterruptedError

    model = load_model(checkpoint, torch.device("cpu"))
    assistant = Assistant(model, Tokenizer.load(checkpoint), generator=Watching())
    with pytest.raises(InterruptedError):
        list(assistant.stream(PROMPTS[0].messages))
    assert seen == expected[:1]
