"""Every real file that the readers are for, with the counts they must give. Needs the shared data folder."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tutelage.data.formats import detect, read_conversations, read_documents, read_prompts, read_rankings
from tutelage.data.inspect import inspect_data
from tutelage.data.read.rows import Rejects
from tutelage.data.writing import write_records
from tutelage.errors import DataError

DATA = Path(os.environ.get("TUTELAGE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (set TUTELAGE_SHARED_DATA)")


def read(reader, name, **options):
    rejects = Rejects()
    return list(reader(DATA / name, rejects=rejects, **options)), dict(rejects.counts)


def test_novels_are_whole():
    documents, left_out = read(read_documents, "100_english_novels/corpus")
    assert left_out == {}
    sizes = [len(document.text.encode()) for document in documents]
    assert max(sizes) <= 16_384
    assert sum(size < 4096 for size in sizes) <= 67  # at most the last piece of each book
    files = sorted((DATA / "100_english_novels/corpus").iterdir())
    assert len({document.source for document in documents}) == len(files) == 67
    for path in files[::13]:
        text = "".join(document.text for document in documents if document.source == path.name)
        assert text == path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("name", "count", "left_out"),
    [
        ("tinyshakespeare", 69, {}),
        ("wikitext-2/valid.txt", 77, {}),
        ("llama-factory/wiki_demo.txt", 78, {}),
        ("llama-factory/c4_demo.jsonl", 300, {}),
        ("classical-modern-zh", 1432, {"file of another kind": 1, "readme or licence": 1}),
        ("nltk/movie_reviews.zip", 2000, {"file of another kind": 1}),
        ("nltk/names.zip", 5, {"file of another kind": 1}),
    ],
)
def test_texts(name, count, left_out):
    documents, reasons = read(read_documents, name)
    assert (len(documents), reasons) == (count, left_out)


def test_old_corpora_in_another_encoding():
    with pytest.raises(DataError, match=r"2005-Bush\.txt:\d+: is not utf-8"):
        read(read_documents, "nltk/inaugural.zip")
    documents, left_out = read(read_documents, "nltk/inaugural.zip", on_bad="skip")
    assert (len(documents), left_out["line in another encoding"]) == (77, 19)
    with pytest.raises(DataError, match="holds no text"):
        read(read_documents, "nltk/shakespeare.zip")  # XML


@pytest.mark.parametrize(
    ("name", "format", "count", "left_out"),
    [
        ("alpaca-52k-parts", "alpaca + seed_task", 42_148 + 175 - 21, {"empty output": 21, "file of another kind": 2}),
        ("alpaca-zh", "alpaca", 20_295, {"empty output": 7, "empty instruction": 1}),
        ("llama-factory/alpaca_en_demo.json", "alpaca", 999, {}),
        ("llama-factory/alpaca_zh_demo.json", "alpaca", 1000, {}),
        ("llama-factory/identity.json", "alpaca", 91, {}),
        ("alpaca_eval/text_davinci_003.model_outputs.json", "alpaca", 803, {"empty output": 2}),
        ("t0-50k", "prompt_completion", 71 * 200, {}),
        ("fastchat-judge/data/dummy_conversation.json", "sharegpt", 500, {}),
        ("open-assistant/en_100_tree.jsonl", "oasst", 101, {"answers without ranks": 1}),
        ("open-assistant/en_100_message.jsonl", "oasst", 101, {"answers without ranks": 1}),
    ],
)
def test_conversations(name, format, count, left_out):
    assert detect(DATA / name) == format
    conversations, reasons = read(read_conversations, name)
    assert (len(conversations), reasons) == (count, left_out)
    assert all(c.messages[-1].role == "assistant" and c.messages[-1].content for c in conversations)
    assert not any("<|endoftext|>" in c.messages[-1].content for c in conversations)


def test_tool_calls_are_kept():
    conversations, left_out = read(read_conversations, "llama-factory/glaive_toolcall_en_demo.json")
    assert (len(conversations), left_out) == (300, {})
    calls = [call for c in conversations for message in c.messages for call in message.tool_calls]
    outputs = [message for c in conversations for message in c.messages if message.role == "tool"]
    assert len(calls) == len(outputs) > 150
    first = next(c for c in conversations if any(m.tool_calls for m in c.messages))
    assert [m.role for m in first.messages[2:6]] == ["user", "assistant", "tool", "assistant"]
    assert first.messages[3].tool_calls[0].name == "search_recipes"
    assert "search_recipes" in first.meta["tools"]
    with pytest.raises(DataError, match="unpaired preference"):
        read(read_conversations, "llama-factory/kto_en_demo.json", on_bad="skip")


@pytest.mark.parametrize(
    ("name", "format", "sizes", "left_out"),
    [
        ("hh-rlhf/harmless-base/test.jsonl.gz", "hh", {2: 2307}, {"the sides differ before the last answer": 5}),
        (
            "hh-rlhf/helpful-base/test.jsonl.gz",
            "hh",
            {2: 2343},
            {"the sides differ before the last answer": 9, "both sides are the same": 2},
        ),
        (
            "open-assistant/en_100_tree.jsonl",
            "oasst",
            {2: 57, 3: 117, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1},
            {"answers without ranks": 2, "answer without a rank": 1},
        ),
        ("llama-factory/dpo_en_demo.json", "preference", {2: 300}, {}),
        ("llama-factory/dpo_zh_demo.json", "preference", {2: 300}, {}),
        ("alpaca_eval/vicuna-13b.annotations.json", "alpaca_eval", {2: 803}, {"both answers are the same": 2}),
    ],
)
def test_rankings(name, format, sizes, left_out):
    assert detect(DATA / name) == format
    rankings, reasons = read(read_rankings, name)
    assert (Counter(len(r.completions) for r in rankings), reasons) == (sizes, left_out)


def test_alpaca_eval_wins_are_the_published_ones():
    """Wins over text-davinci-003 on AlpacaEval's leaderboard (alpaca_eval_gpt4, column n_wins)."""
    for name, wins in (("vicuna-13b", 566), ("text_davinci_001", 112), ("alpaca-7b", 205)):
        rankings, _ = read(read_rankings, f"alpaca_eval/{name}.annotations.json")
        assert sum(r.ranks[1] < r.ranks[0] for r in rankings) == wins


@pytest.mark.parametrize(
    ("name", "format", "count"),
    [
        ("fastchat-judge/mt_bench/question.jsonl", "question", 80),
        ("fastchat-judge/vicuna_bench/question.jsonl", "question", 80),
        ("self-instruct/seed_tasks.jsonl", "seed_task", 175),
        ("open-assistant/en_100_text.jsonl", "string", 100),
        ("open-assistant/prompt_lottery_en_250_text.jsonl", "string", 250),
        ("humaneval/HumanEval.jsonl.gz", "prompt", 164),
        ("open-assistant/en_100_tree.jsonl", "oasst", 101),
        ("hh-rlhf/helpful-base/test.jsonl.gz", "hh", 2343),
    ],
)
def test_prompts(name, format, count):
    assert detect(DATA / name) == format
    prompts, _ = read(read_prompts, name)
    assert len(prompts) == count


def test_what_is_no_data_is_said():
    with pytest.raises(DataError, match="an array of rows, or one object per line"):
        read(read_prompts, "open-assistant/wikipedia_emergency_info.json")
    with pytest.raises(DataError, match="there is no such file or folder"):
        read(read_prompts, "nowhere")


def bare(record):
    """Without what becomes the new file's name, and without what a pair's format has no place for."""
    if not hasattr(record, "prompt"):
        return record.model_copy(update={"source": ""})
    asked = record.prompt.model_copy(update={"source": ""})
    return record.model_copy(update={"source": "", "labeller": "", "prompt": asked})


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize(
    ("name", "read_one", "formats"),
    [
        ("hh-rlhf/helpful-base/test.jsonl.gz", read_rankings, "hh preference"),
        ("llama-factory/dpo_zh_demo.json", read_rankings, "preference ranking"),
        ("open-assistant/en_100_tree.jsonl", read_rankings, "ranking"),
        ("alpaca_eval/vicuna-13b.annotations.json", read_rankings, "ranking"),
        ("alpaca-52k-parts/alpaca_data-0-3252.json", read_conversations, "alpaca sharegpt prompt_completion"),
        ("alpaca-zh/zh-data-part-00.json", read_conversations, "alpaca conversation"),
        ("llama-factory/glaive_toolcall_zh_demo.json", read_conversations, "sharegpt alpaca prompt_completion"),
        ("open-assistant/en_100_tree.jsonl", read_conversations, "sharegpt prompt_completion conversation"),
        ("t0-50k/data_per_template", read_conversations, "prompt_completion"),
        ("fastchat-judge/mt_bench/question.jsonl", read_prompts, "prompt conversation"),
        ("llama-factory/c4_demo.jsonl", read_documents, "document"),
        ("tinyshakespeare", read_documents, "document"),
    ],
)
def test_real_records_come_back_from_what_is_written(tmp_path, name, read_one, formats, ending):
    records, _ = read(read_one, name, on_bad="skip")
    records = records[:: 1 + len(records) // 500]
    if name.startswith("alpaca-52k"):  # readers strip such texts, so only stripped ones come back to the letter
        records = [r for r in records if all(m.content == m.content.strip() for m in r.messages)]
    for format in formats.split():
        if format == "alpaca" and "toolcall" in name:
            records = [
                r for r in records if [m.role for m in r.messages] == ["user", "assistant"] * (len(r.messages) // 2)
            ]
        path = tmp_path / f"{format}.{ending}"
        assert write_records(path, records, format).count == len(records) > 50
        got = list(read_one(path))
        assert list(map(bare, got)) == list(map(bare, records))


def test_inspecting_a_folder_of_everything():
    found = inspect_data(DATA / "llama-factory")
    by_name = {file.name: (file.format, file.records, bool(file.problem)) for file in found.files}
    assert by_name["alpaca_zh_demo.json"] == ("alpaca", 1000, False)
    assert by_name["kto_en_demo.json"] == ("", 0, True)
    conversations, rankings, documents = (found.kinds[name] for name in ("conversations", "rankings", "documents"))
    assert (rankings.pairs, rankings.sizes, documents.records) == (600, {2: 600}, 378)
    assert conversations.scripts["CJK"] > 0.2 * conversations.scripts.total()
