"""Evaluation: `tutelage eval` beside lm-eval's Hugging Face path, on the same rows: pairs of sentences, and questions with four
answers after five examples. Model and rows are loaded before; a turn asks all rows.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "Evaluation"
ROWS, SHOTS = 64, 5
LETTERS = "ABCD"
TEMPLATES: dict[str, dict[str, Any]] = {
    "blimp": {"doc_to_text": "", "doc_to_target": 0, "doc_to_choice": "{{[sentence_good, sentence_bad]}}"},
    "arc_easy": {
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
    },
}
"""lm-eval's own words for the tasks, which ask as ours do."""


def cases(prepared: Prepared) -> Iterator[Case]:
    sides = [
        Side("tutelage", "as shipped", tutelage),
        Side("tutelage", "bf16", tutelage, {"dtype": "bf16"}),
        Side("lm-eval", "as shipped", lm_eval, {}, "lm-eval"),
        Side("lm-eval", "batch 32, mallopt", lm_eval, {"together": 32}, "lm-eval"),
        Side("lm-eval", "batch 32, bf16m", lm_eval, {"together": 32, "dtype": "bfloat16"}, "lm-eval"),
    ]
    data = prepared.folder / "tasks"
    sentences = [document.text.split("\n")[0][:120] for document in prepared.world.files["documents"]]
    write_rows(data, sentences, 8 if prepared.quick else ROWS)
    model = prepared.model("S", max_position_embeddings=1024)
    for name, task, shots in (("pairs of sentences", "blimp", 0), ("four answers, five examples", "arc_easy", SHOTS)):
        work = {"model": model, "data": str(data), "task": task, "shots": shots}
        yield Case(f"S, {name}", "rows/s", sides, work)


def write_rows(folder: Path, sentences: list[str], rows: int) -> None:
    """The rows of both tasks as files of the sets that they are named after."""
    rng = random.Random(0)
    pairs = [
        {"UID": "bench", "sentence_good": (good := rng.choice(sentences)), "sentence_bad": good[::-1]}
        for _ in range(rows)
    ]
    (folder / "blimp").mkdir(parents=True)
    (folder / "blimp" / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "commonsense-math" / "ARC-Easy").mkdir(parents=True)
    for split, count in (("test", rows), ("train", 4 * SHOTS)):
        questions = [
            {
                "id": f"{split}-{i}", "question": rng.choice(sentences), "answerKey": rng.choice(LETTERS),
                "choices": {"text": [sentence[:40] for sentence in rng.sample(sentences, 4)], "label": list(LETTERS)},
            }
            for i in range(count)
        ]  # fmt: skip
        (folder / "commonsense-math" / "ARC-Easy" / f"{split}.json").write_text(json.dumps(questions))


def tutelage(model: str, data: str, task: str, shots: int, dtype: str = "fp32") -> Turn:
    from tutelage.machine import prepare_machine

    prepare_machine()
    from tutelage.evaluate.tasks.command import load_subject
    from tutelage.evaluate.tasks.run import Asking, load_items, run_task
    from tutelage.evaluate.tasks.table import load_tasks

    subject, asking, chosen = load_subject(model, "cpu", dtype), Asking(shots=shots), load_tasks([task])[task]
    items, pool = load_items(task, chosen, Path(data), asking)

    def turn() -> float:
        samples, left_out = run_task(task, chosen, items, pool, subject, asking)
        if left_out:
            raise RuntimeError(f"{left_out} rows were left out")
        return len(samples)

    return turn


def lm_eval(model: str, data: str, task: str, shots: int, together: int = 1, dtype: str = "auto") -> Turn:
    """lm-eval's own task of a JSON file, on its ``hf`` model."""
    import yaml
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from bench.tunings import keep_big_tensors_on_heap

    if together > 1:
        keep_big_tensors_on_heap()
    folder = Path(data) / "commonsense-math" / "ARC-Easy"
    files = {"test": str(folder / "test.json"), "train": str(folder / "train.json")}
    if task == "blimp":
        files = {"test": str(Path(data) / "blimp" / "bench.jsonl")}
    described: dict[str, Any] = {
        "task": "bench", "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
        "output_type": "multiple_choice", "num_fewshot": shots, "metric_list": [{"metric": "acc"}],
    } | TEMPLATES[task] | ({"fewshot_split": "train"} if shots else {})  # fmt: skip
    own = Path(tempfile.mkdtemp())
    (own / "bench.yaml").write_text(yaml.safe_dump(described))
    loaded = HFLM(pretrained=model, device="cpu", dtype=dtype, batch_size=together)
    tasks = TaskManager(include_path=str(own)).load(["bench"])
    tasks["tasks"]["bench"].set_fewshot_seed(seed=1234)

    def turn() -> float:
        found = evaluate(loaded, tasks, log_samples=False)
        return float(found["n-samples"]["bench"]["effective"])

    return turn
