"""The smallest recipe that a round of the loop can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toy_task import MACHINE, SHAPE

WORLD = {
    "kind": "world", "people": 12, "towns": 6, "documents": 300, "heldout_documents": 10, "demonstrations": 60,
    "heldout_demonstrations": 4, "prompts": 80, "heldout_prompts": 24,
}  # fmt: skip
TEXT = {"world": "world/documents.jsonl"}
PPO = {"kind": "ppo", "updates": 1, "batch_size": 8, "minibatch": 8, "max_tokens": 8, "machine": MACHINE}
SETTINGS: dict[str, Any] = {
    "prompts": 20,
    "held_out": 0.25,
    "completions": 3,
    "max_tokens": 8,
    "nice": 0,
    "gate": {
        "people": 5,
        "win_rate_to_detect": 0.95,
        "power": 0.7,
        "alignment_tax": 10.0,
        "length": 100.0,
        "refusals": 1.0,
    },
    "simulated": {"questions": 16, "askers": 8, "labellers": 2},
}


def start_recipe(out: Path) -> dict[str, Any]:
    """World, SFT model and first labels; ``reward`` and ``ppo_ptx`` are there for rounds to copy."""
    steps = {
        "world": WORLD,
        "tokenizer": {"kind": "tokenizer", "inputs": {"text": TEXT}, "vocab_size": 400},
        "base": {
            "kind": "pretrain",
            "inputs": {"tokenizer": "tokenizer", "text": TEXT, "heldout": "world/documents_heldout.jsonl"},
            "model": SHAPE | {"hidden_size": 32, "context": 384},
            "sequence": 64,
            "steps": 2,
            "batch_size": 2,
            "machine": MACHINE,
        },
        "sft": {
            "kind": "sft",
            "inputs": {"checkpoint": "base", "demonstrations": "world/demonstrations.jsonl"},
            "epochs": 1,
            "machine": MACHINE,
        },
        "labels": {
            "kind": "label", "inputs": {"checkpoint": "sft", "world": "world"}, "prompts": 8, "heldout_prompts": 4,
            "completions": 3, "max_tokens": 8, "views": 2,
        },
        "reward": {
            "kind": "reward",
            "inputs": {
                "checkpoint": "sft",
                "rankings": "labels/rankings.jsonl",
                "heldout": "labels/rankings_heldout.jsonl",
            },
            "batch_size": 8,
            "max_length": 384,
            "machine": MACHINE,
        },
        "ppo_ptx": PPO
        | {
            "inputs": {
                "checkpoint": "sft",
                "reward_model": "reward",
                "prompts": "world/prompts.jsonl",
                "world": "world",
                "text": TEXT,
            },
            "ptx": {"coef": 0.5, "windows": 1, "sequence": 32},
        },
        "evaluate": {
            "kind": "evaluate",
            "inputs": {
                "models": {"sft": "sft"},
                "prompts": "world/prompts_heldout.jsonl",
                "heldout_text": "world/documents_heldout.jsonl",
                "world": "world",
            },
        },
    }  # fmt: skip
    return {"name": "A start", "out": str(out), "seed": 3, "device": "cpu", "steps": steps}
