"""The six families against transformers: settings at random, both directions, whole forwards and cached generation.

About 40 seconds on one thread. `pytest -m proof tests/model/test_families.py` draws thirty times as many models.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import FAMILIES, build, configs, made_by_transformers, transformers_model
from torch import Tensor

from tutelage.generate.engine import Engine, Request
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import load_decoder
from tutelage.model.decoder import Decoder

NEW = 64
PROMPTS = 20
"""Longest prompt."""
CACHED = ("linear", "llama3", "yarn")
"""Dynamic scaling acts beyond max_position_embeddings, which the engine does not pass: test_rope generates there."""
DATA = Path(os.environ.get("TUTELAGE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ARITH_LLAMA = DATA / "tiny-weights" / "verl-arith-llama"


def logits_agree(ours: Decoder, theirs: Any, ids: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def check_logits(family: str, data: st.DataObject) -> None:
    """Ours read by transformers, and theirs read by us."""
    config, seed = data.draw(configs(family)), data.draw(st.integers(0, 99))
    model = build(config, seed)
    ids = torch.randint(0, config.vocab_size, (2, 24))
    logits_agree(model, transformers_model(model), ids)
    theirs, ours = made_by_transformers(config, seed)
    assert ours.config == config
    logits_agree(ours, theirs, ids)


def check_greedy(family: str, data: st.DataObject) -> None:
    """Tokens of a ragged batch: our engine's against transformers' with left padding.

    Where the two part, transformers' own logits must be a tie (1e-4, the rounding that is allowed everywhere here).
    """
    config = data.draw(configs(family, context=PROMPTS + NEW, kinds=CACHED))
    model = build(config, data.draw(st.integers(0, 99)))
    prompts = [
        torch.randint(0, config.vocab_size, (n,))
        for n in data.draw(st.lists(st.integers(1, PROMPTS), min_size=3, max_size=3))
    ]
    sampling = Sampling(temperature=0, max_tokens=NEW)
    ours = Engine(model, autocast="fp32").generate([Request(prompt.tolist(), sampling) for prompt in prompts])
    theirs = transformers_model(model)
    longest = max(map(len, prompts))
    ids, real = torch.zeros(2, 3, longest, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :], real[i, longest - len(prompt) :] = prompt, 1
    out = theirs.generate(
        ids,
        attention_mask=real,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    for prompt, row, (answer,) in zip(prompts, out[:, longest:].tolist(), ours, strict=True):
        assert len(row) == len(answer.ids) == NEW
        if row != answer.ids:
            same = next(i for i in range(NEW) if row[i] != answer.ids[i])
            seen = torch.tensor([*prompt.tolist(), *row[:same]])
            with torch.no_grad():
                logits = theirs(seen[None]).logits[0, -1]
            assert abs(logits[row[same]] - logits[answer.ids[same]]) < 1e-4, f"tokens differ from place {same} on"


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(data=st.data())
def test_logits_equal_transformers_both_ways(family, data):
    check_logits(family, data)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(data=st.data())
def test_greedy_tokens_of_the_engine_equal_transformers(family, data):
    check_greedy(family, data)


@pytest.mark.proof
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=250)
@given(data=st.data())
def test_logits_of_many_models(family, data):
    check_logits(family, data)


@pytest.mark.proof
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=100)
@given(data=st.data())
def test_greedy_tokens_of_many_models(family, data):
    check_greedy(family, data)


@pytest.mark.skipif(not ARITH_LLAMA.is_dir(), reason=f"no {ARITH_LLAMA} (set TUTELAGE_SHARED_DATA)")
def test_a_llama_folder_from_elsewhere_gives_its_reference_logits():
    model = load_decoder(ARITH_LLAMA)
    assert next(model.parameters()).dtype == torch.bfloat16
    reference = json.loads((ARITH_LLAMA / "reference_logits.json").read_text())
    model = load_decoder(ARITH_LLAMA, dtype=torch.float32)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([reference["input_ids"]])))[0]
    torch.testing.assert_close(logits, torch.tensor(reference["logits"]), atol=1e-5, rtol=0)
