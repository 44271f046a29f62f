"""A base model of somebody else's, from its folder to an aligned assistant: its tokenizer, no template, no padding token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_task import ppo_job, pretrain_job, reward_job, rows, sft_job

import tutelage
from tutelage.errors import CheckpointError, RecipeError, TutelageError
from tutelage.model.checkpoint import load_decoder, save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel, fit_vocabulary
from tutelage.records import Message
from tutelage.text.chat import render
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import pretrain

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEMPLATE = (
    "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A:\n' if m.role == 'assistant' else '' }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}{% if add_generation_prompt %}A:\n{% endif %}"
)
LORA = {"r": 8, "alpha": 16.0}


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory) -> Path:
    """A GPT-2 as its authors would publish it: vocab.json, merges.txt, one special token that begins and ends everything."""
    path = tmp_path_factory.mktemp("theirs") / "gpt2"
    path.mkdir()
    texts = [json.loads(line)["text"] for line in (toy.folder / "documents.jsonl").read_text().splitlines()]
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, 360, special_tokens=["<|endoftext|>"])
    backend.save_model(str(path))
    named = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(named | {"unk_token": "<|endoftext|>"}))
    torch.manual_seed(0)
    size = backend.get_vocab_size()
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128}
    config = transformers.GPT2Config(vocab_size=size, bos_token_id=0, eos_token_id=0, **shape)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "chat.jinja"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def grown(toy, folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("theirs") / "more"
    return pretrain_job(toy, out, tokenizer=None, checkpoint=folder, model=pretrain.Shape(), steps=60).run()


@pytest.fixture(scope="module")
def tuned(toy, grown, template, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("theirs") / "sft"
    return sft_job(toy, grown, out, chat_template=template, lora=LORA, lr=1e-2, epochs=3).run()


def test_pretraining_goes_on_from_their_model(folder, grown):
    log = rows(grown)
    assert log[-1]["loss"] < log[0]["loss"] - 1
    theirs, ours = Tokenizer.load(folder), Tokenizer.load(grown)
    assert theirs.encode("The cup is red.") == ours.encode("The cup is red.")
    assert theirs.appended == ("<|pad|>",)
    assert load_decoder(grown).config.vocab_size == load_decoder(folder).config.vocab_size + 1 == theirs.vocab_size


def test_the_checkpoint_carries_the_template_and_transformers_reads_and_answers_as_we_do(tuned):
    ours, theirs = Tokenizer.load(tuned), transformers.AutoTokenizer.from_pretrained(tuned)
    messages = [{"role": "user", "content": "The cup is red. What colour is the cup?"}]
    ids = render(ours, [Message(**m) for m in messages], add_generation_prompt=True).ids
    spoken = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == list(spoken)
    model = transformers.AutoModelForCausalLM.from_pretrained(tuned)
    out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    answer = tutelage.load(str(tuned), device="cpu").chat(messages, temperature=0.0, max_tokens=12)
    assert answer == theirs.decode(out, skip_special_tokens=True)
    assert out[-1].item() == ours.end_id, "the end of an answer was learnt"


def test_the_whole_circle_through_adapters(toy, tuned, tmp_path, capsys):
    scorer = reward_job(toy, tuned, tmp_path / "reward", lora=LORA, lr=1e-2).run()
    aligned = ppo_job(toy, tuned, scorer, tmp_path / "ppo", updates=4, lr=5e-3, lora=LORA).run()
    assert "trunk of its own" not in capsys.readouterr().out
    log = rows(aligned)
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert log[-1]["kl"] > 0.01
    assert all(abs(row["first_ratio"] - 1) < 1e-5 for row in log)
    assert isinstance(tutelage.load(str(aligned), device="cpu").chat([{"role": "user", "content": "Hello?"}]), str)


def test_without_a_template_the_error_says_what_to_give(toy, grown, tmp_path):
    with pytest.raises(TutelageError, match="template"):
        sft_job(toy, grown, tmp_path / "sft").run()


@pytest.mark.parametrize(
    ("text", "problem"), [(b"\xff\xfe", "cannot be read"), (b"{% if %}", "template"), (b"hello", "template")]
)
def test_a_template_that_does_not_work_is_refused_before_anything_runs(toy, grown, tmp_path, text, problem):
    path = tmp_path / "chat.jinja"
    path.write_bytes(text)
    with pytest.raises(TutelageError, match=problem):
        sft_job(toy, grown, tmp_path / "sft", chat_template=path).run()


def test_a_model_by_a_name_that_is_nothing(toy, tmp_path):
    with pytest.raises(CheckpointError, match="is neither a folder nor a name on the Hugging Face hub"):
        sft_job(toy, tmp_path / "nowhere", tmp_path / "sft").run()


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": None},
        {"checkpoint": "somewhere"},
        {"lora": LORA},
        {"tokenizer": None, "checkpoint": "somewhere", "model": {"layers": 9}},
    ],
)
def test_pretraining_settings_that_contradict_each_other(toy, tmp_path, changes):
    with pytest.raises((RecipeError, ValueError), match=r"give either|lora needs|shape of a new"):
        pretrain_job(toy, tmp_path / "out", **changes).run()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("scalar", [True, False])
def test_new_rows_are_the_mean_and_change_nothing_else(tie, scalar, tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, tie_embeddings=tie)
    model = ScalarModel.from_decoder(Decoder(config)) if scalar else Decoder(config)
    decoder = model.decoder if scalar else model
    ids = torch.arange(10)[None]
    before = model(ids) if scalar else model.logits(model(ids))
    assert fit_vocabulary(model, 43) == 3
    assert fit_vocabulary(model, 41) == 0
    after = model(ids) if scalar else model.logits(model(ids))
    torch.testing.assert_close(after if scalar else after[..., :40], before)
    torch.testing.assert_close(decoder.embed.weight[42], decoder.embed.weight[:40].mean(0))
    if not scalar:
        save_model(tmp_path, model)
        assert load_decoder(tmp_path).config.vocab_size == 43


def test_weights_that_are_not_finite_are_named_before_training(toy, base, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    weights = load_file(damaged / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[3] = torch.nan
    save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="holds numbers that are not finite: training cannot start from it"):
        sft_job(toy, damaged, tmp_path / "sft").run()
