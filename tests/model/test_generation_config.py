"""generation_config.json: what transformers writes is read, what we write is read by transformers, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import build, small

from tutelage.errors import CheckpointError
from tutelage.model.checkpoint import save_model
from tutelage.model.generation_config import GenerationDefaults, generation_to_hf, read_generation_config

FULL = GenerationDefaults(
    bos_id=1,
    end_ids=(2, 7),
    pad_id=0,
    do_sample=True,
    temperature=0.6,
    top_p=0.95,
    top_k=20,
    repetition_penalty=1.05,
    max_new_tokens=2048,
)


def whole(low: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(low, 10**6)


def write(folder: Path, defaults: GenerationDefaults) -> None:
    (folder / "generation_config.json").write_text(json.dumps(generation_to_hf(defaults)))


@settings(max_examples=60, deadline=None)
@given(
    defaults=st.builds(
        GenerationDefaults,
        bos_id=whole(0),
        end_ids=st.lists(st.integers(0, 10**6), max_size=3, unique=True).map(tuple),
        pad_id=whole(0),
        do_sample=st.none() | st.booleans(),
        temperature=st.none() | st.floats(0, 10),
        top_p=st.none() | st.floats(0, 1, exclude_min=True),
        top_k=whole(0),
        repetition_penalty=st.none() | st.floats(0.01, 10),
        max_new_tokens=whole(1),
    )
)
def test_what_is_written_is_read(defaults, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write(folder, defaults)
    assert read_generation_config(folder) == defaults
    assert [path.name for path in folder.iterdir()] == ["generation_config.json"]


def test_transformers_reads_ours_and_we_read_its(tmp_path):
    from transformers import GenerationConfig

    write(tmp_path, FULL)
    theirs = GenerationConfig.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, [2, 7], 0)
    assert (theirs.do_sample, theirs.temperature, theirs.top_p, theirs.top_k) == (True, 0.6, 0.95, 20)
    assert (theirs.repetition_penalty, theirs.max_new_tokens) == (1.05, 2048)
    theirs.save_pretrained(tmp_path / "theirs")
    assert read_generation_config(tmp_path / "theirs") == FULL


def test_one_end_id_is_a_number_and_none_is_left_out(tmp_path):
    write(tmp_path, GenerationDefaults(end_ids=(5,)))
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": 5}
    write(tmp_path, GenerationDefaults())
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {}


def test_without_the_file_config_json_speaks(tmp_path):
    save_model(tmp_path, build(small("llama")), bos_id=1, end_id=[2, 3], pad_id=0)
    wanted = GenerationDefaults(bos_id=1, end_ids=(2, 3), pad_id=0)
    assert read_generation_config(tmp_path) == wanted
    (tmp_path / "generation_config.json").unlink()
    assert read_generation_config(tmp_path) == wanted
    (tmp_path / "config.json").unlink()
    assert read_generation_config(tmp_path) == GenerationDefaults()
    with pytest.raises(CheckpointError, match="does not exist: give a model folder"):
        read_generation_config(tmp_path / "nowhere")


def test_older_folders_say_none_as_minus_one(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"pad_token_id": -1, "bos_token_id": 1, "eos_token_id": null}')
    assert read_generation_config(tmp_path) == GenerationDefaults(bos_id=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "generation_config.json cannot be read"),
        ("[]", "must hold a JSON object, not list"),
        ('{"eos_token_id": "</s>"}', "eos_token_id is '</s>': Input should be a valid integer"),
        ('{"eos_token_id": [1, -4]}', "eos_token_id is [1, -4]: Input should be greater than or equal to 0"),
        ('{"pad_token_id": true}', "pad_token_id is True: Input should be a valid integer"),
        ('{"temperature": -1}', "temperature is -1: Input should be greater than or equal to 0"),
        ('{"temperature": Infinity}', "temperature is inf: Input should be a finite number"),
        ('{"top_p": 1.5}', "top_p is 1.5: Input should be less than or equal to 1"),
        ('{"top_k": 2.5}', "top_k is 2.5: Input should be a valid integer"),
        ('{"do_sample": "yes"}', "do_sample is 'yes': Input should be a valid boolean"),
        ('{"repetition_penalty": 0}', "repetition_penalty is 0: Input should be greater than 0"),
        ('{"max_new_tokens": 0}', "max_new_tokens is 0: Input should be greater than 0"),
    ],
)
def test_what_is_wrong_is_named(content, message, tmp_path):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        read_generation_config(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / "generation_config.json") in str(error.value)
    assert "\n" not in str(error.value)
