"""Our likelihoods, answers and scores beside lm-eval's, on the same rows: `python -m tests.proof_tasks MODEL [--rows N]`.

Runs where lm-eval is installed (an environment of its own will do: pip install "lm-eval[api]"). lm-eval gets the rows, writes its
own prompts of them from the templates below, and runs a Hugging Face model of the same folder, then ours through ``harness_model``;
with ``--server URL``, in its place what `tutelage serve MODEL` answers there, which lm-eval asks as ``local-completions``.
With ``--kept FOLDER``, our scores are those that `tutelage eval MODEL --tasks ... --rows N --out FOLDER` left there, and
lm-eval runs Hugging Face's model alone. Exits with 1 where a log-likelihood differs by more than 1e-4, a score, or a greedy answer.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.assistant.assistant import Assistant
from tutelage.evaluate.harness import harness_model
from tutelage.evaluate.tasks.models import Local
from tutelage.evaluate.tasks.run import Asking, Sample, load_items, run_task
from tutelage.evaluate.tasks.scorers import number
from tutelage.evaluate.tasks.table import load_tasks
from tutelage.evaluate.tasks.task import Answered, Item
from tutelage.model.hub import resolve_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TOLERANCE = 1e-4
_OPTIONS = "{% for choice in choices %}{{'ABCD'[loop.index0]}}. {{choice}}\n{% endfor %}"
_CONTENT = {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"}
_CHINESE = {
    "doc_to_text": "下面是单项选择题，请选出正确的一项。\n\n{{question}}\n" + _OPTIONS + "答案：",
    "doc_to_choice": ["A", "B", "C", "D"],
    "target_delimiter": "",
}
CHOICES: dict[str, dict[str, Any]] = {
    "arc_easy": _CONTENT,
    "arc_challenge": _CONTENT,
    "openbookqa": _CONTENT,
    "piqa": _CONTENT,
    "boolq": {"doc_to_text": "{{passage}}Question: {{question}}?\nAnswer:", "doc_to_choice": ["no", "yes"]},
    "bbq": {"doc_to_text": "{{context}}\nQuestion: {{question}}\nAnswer:", "doc_to_choice": "{{choices}}"},
    "blimp": {"doc_to_text": "", "doc_to_choice": "{{choices}}", "target_delimiter": ""},
    "mmlu": {
        "doc_to_text": "The following are multiple choice questions (with answers) about {{subject}}.\n\n{{question}}\n"
        + _OPTIONS
        + "Answer:",
        "doc_to_choice": ["A", "B", "C", "D"],
    },
    "ceval": _CHINESE,
    "cmmlu": _CHINESE,
    "truthfulqa_mc1": {"doc_to_text": "Q: {{question}}\nA:", "doc_to_choice": "{{choices}}"},
}
"""Task -> its first template in lm-eval's words."""
GSM8K = {"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{result}}"}
STOPS = ["\nQuestion:", "\n\n\n"]
Harness = Mapping[str, list[dict[str, Any]]]
"""Task -> lm-eval's samples in the order of the rows."""


def main(words: Sequence[str]) -> int:
    """Prints a line per task; returns the exit code."""
    parser = ArgumentParser(prog="python -m tests.proof_tasks")
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--tasks", default=",".join([*CHOICES, "gsm8k"]))
    parser.add_argument("--server", help="the address of a server of the same model")
    parser.add_argument("--kept", type=Path, help="folder of `tutelage eval`, whose rows are read in place of asking")
    parser.add_argument("--max_tokens", type=int, default=128, help="longest answer of gsm8k; with --kept 320")
    asked = parser.parse_args(words)
    names, asking = asked.tasks.split(","), Asking(rows=asked.rows)
    if asked.kept:
        asked.max_tokens = 320
    kept = [json.loads(line) for line in (asked.kept / "samples.jsonl").open()] if asked.kept else []
    assistant = Assistant.load(asked.model, device="cpu", dtype="fp32")
    subject = Local(assistant)
    with tempfile.TemporaryDirectory() as scratch:
        items: dict[str, list[Item]] = {}
        ours: dict[str, list[Sample]] = {}
        for name, task in load_tasks(names).items():
            if task.max_tokens:
                object.__setattr__(task, "max_tokens", asked.max_tokens)
            items[name], pool = load_items(name, task, asked.data, asking)
            ours[name] = run_task(name, task, items[name], pool, subject, asking, kept)[0]
        tasks = [_config(name, items[name], Path(scratch), asked.max_tokens) for name in names]
        others = {"Hugging Face": _harness(_hugging_face(assistant, resolve_model(asked.model), Path(scratch)), tasks)}
        if asked.server:
            others["the server"] = _harness(_remote(asked.server, assistant.context), tasks)
        elif not asked.kept:
            others["the adapter"] = _harness(harness_model(assistant), tasks)
    agreed = [_said(name, items[name], ours[name], others) for name in names]  # each is printed
    return int(not all(agreed))


def _config(name: str, items: Sequence[Item], scratch: Path, max_tokens: int) -> dict[str, Any]:
    path = scratch / f"{name}.jsonl"
    rows = [{**item.fields, "choices": list(item.choices), "gold": (*item.gold, 0)[0]} for item in items]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    common = {
        "task": f"ours_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(scratch)},
        "test_split": "test",
    }
    if name == "gsm8k":
        settings = {"until": STOPS, "do_sample": False, "max_gen_toks": max_tokens}
        metric = {"metric": "exact_match"}
        return {
            **common,
            **GSM8K,
            "output_type": "generate_until",
            "generation_kwargs": settings,
            "metric_list": [metric],
        }
    metrics = [{"metric": "acc"}, {"metric": "acc_norm"}]
    return {
        **common,
        "doc_to_target": "gold",
        **CHOICES[name],
        "output_type": "multiple_choice",
        "metric_list": metrics,
    }


def _hugging_face(assistant: Assistant, folder: Path, scratch: Path) -> Any:
    """lm-eval's own model of the folder. A tokenizer of ours, which has no post-processor, gets one that begins a text."""
    import tokenizers
    from lm_eval.models.huggingface import HFLM

    if assistant.tokenizer.chat is None:
        shutil.copytree(folder, scratch / "model")
        folder = scratch / "model"
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        begin = assistant.tokenizer.name_of(assistant.tokenizer.bos_id)
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, assistant.tokenizer.bos_id)]
        )
        backend.save(str(folder / "tokenizer.json"))
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", "batch_size": 8}
    return HFLM(pretrained=str(folder), prefix_token_id=assistant.tokenizer.bos_id, **options)


def _remote(url: str, context: int) -> Any:
    """lm-eval's client of the completions API, which asks the server for tokens too. Texts are sent: the server begins them."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model="default", tokenizer_backend="auto", tokenized_requests=False,
        max_length=context - 1, batch_size=8,
    )  # fmt: skip


def _harness(model: Any, tasks: Sequence[dict[str, Any]]) -> Harness:
    import lm_eval

    found = lm_eval.simple_evaluate(model=model, tasks=[dict(task) for task in tasks], bootstrap_iters=0)
    return {
        name.removeprefix("ours_"): sorted(samples, key=lambda s: s["doc_id"])
        for name, samples in found["samples"].items()
    }


def _said(name: str, items: Sequence[Item], ours: Sequence[Sample], others: Mapping[str, Harness]) -> bool:
    """Print how far ours are from the others; returns whether they agree."""
    if name == "gsm8k":
        return _said_of_answers(name, items, ours, others)
    shown, agreed = [], True
    for other, found in others.items():
        furthest = max(
            abs(p - float(response[0][0]))
            for own, sample in zip(ours, found[name], strict=True)
            for p, response in zip(own["logprobs"], sample["resps"], strict=True)
        )
        scores = [
            f"{metric} {sum(one['scores'][metric] for one in ours):.0f} {sum(float(one[metric]) for one in found[name]):.0f}"
            for metric in ("acc", "acc_norm")
        ]
        agreed &= furthest <= TOLERANCE and all(score.split()[1] == score.split()[2] for score in scores)
        shown.append(f"at most {furthest:.1e} from {other}, {', '.join(scores)}")
    print(f"{name}: {len(ours)} rows; {'; '.join(shown)}", flush=True)
    return agreed


def _said_of_answers(name: str, items: Sequence[Item], ours: Sequence[Sample], others: Mapping[str, Harness]) -> bool:
    shown, agreed = [], True
    for other, found in others.items():
        pairs = [
            [
                text.strip().rstrip("\ufffd") for text in (own["answer"], sample["resps"][0][0])
            ]  # half a character at the limit
            for own, sample in zip(ours, found[name], strict=True)
        ]
        for pair in pairs:
            if pair[0] != pair[1]:
                print("   ", *map(repr, pair), sep="\n    ")
        right = sum(number(item, Answered(pair[1]))["acc"] for item, pair in zip(items, pairs, strict=True))
        same = sum(pair[0] == pair[1] for pair in pairs)
        agreed &= same == len(pairs)
        shown.append(f"{same} equal those of {other}, {right:.0f} right")
    right = sum(one["scores"]["acc"] for one in ours)
    print(f"{name}: {len(ours)} answers, {right:.0f} right; {'; '.join(shown)}", flush=True)
    return agreed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
