"""Model, tokenizer and adapter folders that are wrong: one line that names the file and what is wrong in it, exit code 2, and
nothing is written; whatever command reads them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harms import (
    CONFIG,
    DEEP,
    GENERATION,
    INDEX,
    NORM,
    OTHER_TEMPLATE,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    Harm,
    as_folder,
    change,
    config,
    cut,
    header,
    imported,
    index,
    larger_tokenizer,
    norm,
    recode,
    rope,
    shards,
    template,
    tensors,
    vocabulary,
    without,
    write,
)
from refusals import make_place, nobody, refused

from tutelage.cli import app as cli

GENERATE = (
    "generate",
    "--checkpoint",
    "bad",
    "--prompts",
    "prompts.jsonl",
    "--out",
    "answers.jsonl",
    "--device",
    "cpu",
)
CHAT = ("chat", "bad", "--message", "Hello", "--device", "cpu", "--max_tokens", "4")
FINE_TUNE = (
    "sft",
    "--checkpoint",
    "bad",
    "--demonstrations",
    "demonstrations.jsonl",
    "--out",
    "made",
    "--machine.device",
    "cpu",
)
RANK = ("reward", "--checkpoint", "bad", "--rankings", "rankings.jsonl", "--out", "made", "--machine.device", "cpu")
EXPORT = ("export", "bad", "--out", "bad.gguf")
EVALUATE = (
    "eval",
    "good",
    "bad",
    "--prompts",
    "prompts.jsonl",
    "--reward_model",
    "scorer",
    "--device",
    "cpu",
)
JUDGE = ("eval", "good", "good", "--prompts", "prompts.jsonl", "--reward_model", "bad", "--device", "cpu")
REINFORCE = ("ppo", "--checkpoint", "good", "--reward_model", "bad", "--prompts", "prompts.jsonl", "--out", "made")
REINFORCE += ("--batch_size", "1", "--minibatch", "1", "--max_tokens", "4", "--machine.device", "cpu")
PRETRAIN = (
    "pretrain",
    "--tokenizer",
    "bad",
    "--text.a",
    "documents.jsonl",
    "--out",
    "made",
    "--steps",
    "1",
)


# folder, harm, what the line holds after the folder's name
WHERE_CONFIG: list[tuple[str, Harm, str]] = [
    ("good", without(CONFIG), " has no config.json: give a model folder"),
    ("adapter", lambda folder: None, " holds only adapters, which need their base model"),
    ("good", as_folder(CONFIG), "/config.json cannot be read: Is a directory"),
    ("good", write(CONFIG, b""), "/config.json cannot be read: Expecting value"),
    ("good", write(CONFIG, b"{'a': 1}"), "/config.json cannot be read: Expecting property name"),
    ("good", write(CONFIG, b"[]"), "/config.json must hold a JSON object, not list"),
    ("good", write(CONFIG, b"null"), "/config.json must hold a JSON object, not NoneType"),
    ("good", recode(CONFIG, "utf-16"), "/config.json cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ("good", config(model_type="bert"), "/config.json: model_type 'bert' is not supported: it must be one of gpt2, "),
    ("good", config(model_type=...), "/config.json: model_type None is not supported"),
    ("good", config(architectures=["GPT2LMHeadModel"]), "/config.json: architecture 'GPT2LMHeadModel' is not supported"),
    ("good", config(vocab_size=...), "/config.json: a llama model needs 'vocab_size', which is missing"),
    ("good", config(hidden_size=None), "/config.json: hidden_size should be a whole number, found none"),
    ("good", config(hidden_size="16"), "/config.json: hidden_size should be a whole number, found '16'"),
    ("good", config(hidden_size=16.5), "/config.json: hidden_size should be a whole number, found 16.5"),
    ("good", config(hidden_size=True), "/config.json: hidden_size should be a whole number, found true"),
    ("good", config(hidden_size=-16), "/config.json: hidden_size should be greater than 0, found -16"),
    ("good", config(hidden_size=17), "/config.json: hidden_size 17 must be a multiple of num_heads 2"),
    ("good", config(num_attention_heads=0), "/config.json: num_attention_heads should be greater"),
    ("good", config(num_key_value_heads=3), "/config.json: num_heads 2 is not a multiple of num_kv_heads 3"),
    ("good", config(max_position_embeddings=0), "/config.json: max_position_embeddings should be gre"),
    ("good", config(rms_norm_eps=float("nan")), "/config.json: rms_norm_eps should be a finite numb"),
    ("good", config(initializer_range="0.02"), "/config.json: initializer_range should be a number"),
    ("good", config(hidden_act="mish"), "/config.json: activation 'mish' is not supported: it must be one of silu, swish, "),
    ("good", config(tie_word_embeddings="maybe"), "/config.json: tie_word_embeddings should be true or false"),
    ("good", config(quantization_config={"bits": 4}), "/config.json: quantization_config: quantised weights are not supported"),
    ("good", config(sliding_window=4), "/config.json: sliding_window=4 is not supported in the llama family"),
    ("good", rope(rope_theta=float("inf")), "/config.json: rope_theta should be a finite number"),
    ("good", rope(rope_theta="x"), "/config.json: rope_theta should be a number, found 'x'"),
    ("good", rope(rope_scaling={"type": "longrope"}), "/config.json: RoPE scaling of type 'longrope' is not supported"),
    ("good", rope(rope_scaling={"type": "linear"}), "/config.json: RoPE scaling of type 'linear' lacks 'factor'"),
    ("good", rope(rope_scaling={"type": "linear", "factor": "x"}), "/config.json: rope_scaling.factor should be a number"),
]  # fmt: skip

WHERE_WEIGHTS: list[tuple[str, Harm, str]] = [
    ("good", without(WEIGHTS), " has no model.safetensors"),
    ("good", as_folder(WEIGHTS), " has no model.safetensors"),
    ("good", lambda f: (without(WEIGHTS)(f), (f / WEIGHTS).symlink_to("nowhere")), " has no model.safetensors"),
    ("good", lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), " holds pytorch_model.bin, pickled weights, which can run"),
    ("good", write(WEIGHTS, b""), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "/model.safetensors is damaged or not a safetensors"),
    ("good", write(WEIGHTS, (10**12).to_bytes(8, "little") + b"{}"), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", cut(WEIGHTS, 100), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", cut(WEIGHTS, -10), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", lambda f: write(WEIGHTS, (f / WEIGHTS).read_bytes() + b"more")(f), "/model.safetensors is damaged or not"),
    ("good", header(data_offsets=[0, 10**9]), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", header(data_offsets=[-4, 60]), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", header(dtype="F16"), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", header(dtype="X9"), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", header(shape=[2**62, 2**62]), "/model.safetensors is damaged or not a safetensors file: "),
    ("good", header(shape=[8, 2]), f"/model.safetensors: {NORM} is [8, 2], config.json makes it [16]"),
    ("good", norm(torch.ones(15)), f"/model.safetensors: {NORM} is [15], config.json makes it [16]"),
    ("good", norm(torch.ones(16, dtype=torch.int64)), f"/model.safetensors: {NORM} is stored as I64; weights must be F32"),
    ("good", norm(torch.ones(16, dtype=torch.complex64)), f"/model.safetensors: {NORM} is stored as C64; weights must be"),
    ("good", tensors(lambda state: state.pop(NORM)), f" lacks {NORM}"),
    ("good", tensors(lambda state: state.clear()), " lacks lm_head.weight, model.embed_tokens.weight, "),
    ("good", tensors(lambda state: state.update(odd=torch.ones(2))), " has extra odd (in model.safetensors)"),
    ("good", config(num_hidden_layers=3), " lacks model.layers.2.input_layernorm.weight, "),
    ("good", config(vocab_size=300), "/model.safetensors: "),
    ("good", lambda f: (f / WEIGHTS).rename(f / INDEX), "/model.safetensors.index.json cannot be read: "),
    ("sharded", lambda f: shards(f)[-1].unlink(), " lacks model-00006-of-00006.safetensors, which model.safetensors.index.json"),
    ("sharded", lambda f: cut(shards(f)[1].name, -4)(f), "/model-00002-of-00006.safetensors is damaged or not a safetensors file"),
    ("sharded", lambda f: shutil.copy(shards(f)[0], shards(f)[1]), " lacks model.layers.0."),
    ("sharded", as_folder(INDEX), " has no model.safetensors"),
    ("sharded", write(INDEX, b"{"), "/model.safetensors.index.json cannot be read: Expecting property name"),
    ("sharded", write(INDEX, b"[]"), "/model.safetensors.index.json must hold a JSON object, not list"),
    ("sharded", write(INDEX, b"{}"), "/model.safetensors.index.json has no weight_map of tensor names to files"),
    ("sharded", index(model__norm__weight="x.bin"), " lacks x.bin, which model.safetensors.index.json names"),
]  # fmt: skip

WHERE_TOKENIZER: list[tuple[str, Harm, str]] = [
    ("good", without(TOKENIZER), ": there is no tokenizer here (no tokenizer.json, vocab.json with merges.txt, or tokenizer"),
    ("good", as_folder(TOKENIZER), "/tokenizer.json: cannot be read (Is a directory)"),
    ("good", write(TOKENIZER, b""), "/tokenizer.json: not a tokenizer (EOF while parsing"),
    ("good", write(TOKENIZER, b"{}"), "/tokenizer.json: not a tokenizer (Model missing"),
    ("good", write(TOKENIZER, DEEP), "/tokenizer.json: not a tokenizer ("),
    ("good", cut(TOKENIZER, 1000), "/tokenizer.json: not a tokenizer (EOF while parsing"),
    ("good", recode(TOKENIZER, "utf-16"), "/tokenizer.json: cannot be read ('utf-8' codec can't decode"),
    ("good", change(TOKENIZER, model={"type": "Nope"}), "/tokenizer.json: not a tokenizer ("),
    ("good", change(TOKENIZER, added_tokens=[]), "/tokenizer.json: the tokenizer has no special token <|bos|>, "),
    ("good", vocabulary(x=-1), "/tokenizer.json: not a tokenizer (invalid value"),
    ("good", vocabulary(x=10**9), ": its tokenizer has 1000000001 tokens, its config.json rows for 270"),
    ("good", larger_tokenizer, " tokens, its config.json rows for 270: they do not belong together"),
    ("good", imported(larger_tokenizer, template(OTHER_TEMPLATE)), " tokens, its config.json rows for 270: they do not belong"),
    ("good", imported(write(TOKENIZER_CONFIG, b"")), "/tokenizer_config.json cannot be read: Expecting value"),
    ("good", imported(write(TOKENIZER_CONFIG, b"[]")), "/tokenizer_config.json must hold a JSON object, not list"),
    ("good", imported(write(TOKENIZER_CONFIG, b"\xff\xfe{}")), "/tokenizer_config.json cannot be read: 'utf-8' codec"),
    ("good", imported(write(TOKENIZER_CONFIG, DEEP)), "/tokenizer_config.json cannot be read: maximum recursion depth"),
    ("good", imported(as_folder(TOKENIZER_CONFIG)), "/tokenizer_config.json cannot be read: Is a directory"),
    ("good", imported(change(TOKENIZER_CONFIG, eos_token=3)), "/tokenizer_config.json: not the configuration of a tokenizer"),
    ("good", imported(change(TOKENIZER_CONFIG, bos_token={"content": 3})), "(ValueError: bos_token is {'content': 3}, which is"),
    ("good", imported(change(TOKENIZER_CONFIG, added_tokens_decoder=[1])), "/tokenizer_config.json: not the configuration of a"),
    ("good", imported(change(TOKENIZER_CONFIG, added_tokens_decoder={"99": {"content": "<|z|>"}})), "should have the id 99"),
    ("good", imported(change(GENERATION, eos_token_id="x")), "/generation_config.json: eos_token_id is 'x': it must be the id"),
    ("good", imported(change(GENERATION, eos_token_id=[[1]])), "/generation_config.json: eos_token_id is [[1]]: it must be"),
    ("good", imported(change(GENERATION, eos_token_id=-1)), "/generation_config.json: eos_token_id is -1: it must be the id"),
    ("good", imported(write(GENERATION, b"{")), "/generation_config.json cannot be read: Expecting property name"),
    ("good", write(TEMPLATE, b""), "/chat_template.jinja: is empty; without the file, the model has no template"),
    ("good", write(TEMPLATE, b"\xff\xfe{"), "/chat_template.jinja: cannot be read ('utf-8' codec"),
    ("good", as_folder(TEMPLATE), "/chat_template.jinja: cannot be read (Is a directory)"),
    ("good", template("{% for m in messages %}"), "/chat_template.jinja: the chat template is not jinja: line 1: "),
    ("good", template("\n{% raise %}\nx\ny"), "/chat_template.jinja: the chat template is not jinja: line 2: Encountered unknown"),
    ("good", template("{{ nothing.of.it }}"), "/chat_template.jinja: the chat template fails: 'nothing' is undefined"),
    ("good", template("{{ raise_exception('a\nb') }}"), "/chat_template.jinja: the chat template refuses this conversation: a b"),
    ("good", template("only words"), "/chat_template.jinja: the chat template leaves out what the assistant says"),
    ("good", template("{{ ''.__class__.__mro__ }}"), "/chat_template.jinja: the chat template fails: access to attribute"),
    ("good", template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "/chat_template.jinja: the chat template fails: Recur"),
    ("good", template("{{" + "(" * 5000), "/chat_template.jinja: the chat template is not jinja: maximum recursion"),
    ("good", imported(without(TEMPLATE), change(TOKENIZER_CONFIG, chat_template="{% if")), "/tokenizer_config.json: the chat te"),
]  # fmt: skip

WHERE_SCORER: list[tuple[str, Harm, str]] = [
    ("good", lambda folder: None, " a language model"),
    ("scorer", without(CONFIG), " has no config.json: give a model folder"),
    ("scorer", config(id2label={"0": "a", "1": "b"}), " holds a classifier: a reward model is needed here"),
    ("scorer", config(id2label=...), " holds a classifier: a reward model is needed here"),
    ("scorer", config(id2label={"a": "0"}), "/config.json: id2label should be an object of names numbered from 0, found"),
    ("scorer", config(id2label=["a"]), "/config.json: id2label should be an object of names numbered from 0, found"),
    ("scorer", config(id2label=..., num_labels="x"), "/config.json: num_labels should be a whole number above 0, found 'x'"),
    ("scorer", tensors(lambda state: state.pop("score.weight")), " lacks score.weight"),
    ("scorer", norm(torch.ones(15)), f"/model.safetensors: {NORM} is [15], config.json makes it [16]"),
    ("scorer", tensors(lambda state: state.update({"score.weight": torch.ones(2, 16)})), "score.weight is [2, 16], config.js"),
    ("scorer", larger_tokenizer, " tokens, its config.json rows for 270: they do not belong together"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_place(folder)
    return folder


@pytest.fixture
def bad(place, monkeypatch) -> Callable[[str, Harm], None]:
    """Makes the folder `bad`: a copy of one that is right, harmed. The working directory is where it stands."""
    monkeypatch.chdir(place)

    def make(source: str, harm: Harm) -> None:
        shutil.rmtree(place / "bad", ignore_errors=True)
        shutil.copytree(place / source, place / "bad")
        harm(place / "bad")

    return make


def numbered(table: list[tuple[str, Harm, str]]) -> list[str]:
    return [f"{i}-{message[:50]}" for i, (_, _, message) in enumerate(table)]


@pytest.mark.parametrize(("source", "harm", "message"), WHERE_CONFIG, ids=numbered(WHERE_CONFIG))
def test_a_bad_configuration(bad, place, capsys, source, harm, message):
    bad(source, harm)
    for command in (GENERATE, CHAT):
        said = refused(capsys, place, *command)
        assert said.startswith("bad"), said
        assert message in said
    for command in (FINE_TUNE, EXPORT):  # they read the tokenizer first, which looks into config.json too
        assert refused(capsys, place, *command).startswith("bad")


@pytest.mark.parametrize(("source", "harm", "message"), WHERE_WEIGHTS, ids=numbered(WHERE_WEIGHTS))
def test_bad_weights(bad, place, capsys, source, harm, message):
    bad(source, harm)
    for command in (GENERATE, FINE_TUNE, EXPORT):
        said = refused(capsys, place, *command)
        assert said.startswith("bad"), said
        assert message in said


@pytest.mark.parametrize(("source", "harm", "message"), WHERE_TOKENIZER, ids=numbered(WHERE_TOKENIZER))
def test_a_bad_tokenizer(bad, place, capsys, source, harm, message):
    bad(source, harm)
    for command in (GENERATE, FINE_TUNE, PRETRAIN):
        said = refused(capsys, place, *command)
        assert said.startswith("bad"), said
        assert message in said


@pytest.mark.parametrize(("source", "harm", "message"), WHERE_SCORER, ids=numbered(WHERE_SCORER))
def test_a_bad_reward_model(bad, place, capsys, source, harm, message):
    bad(source, harm)
    for command in (REINFORCE, JUDGE):
        said = refused(capsys, place, *command)
        assert said.startswith("bad"), said
        assert message in said


def test_at_least_sixty():
    assert len(WHERE_CONFIG) + len(WHERE_WEIGHTS) + len(WHERE_TOKENIZER) + len(WHERE_SCORER) >= 60


def test_what_is_whole_is_read(bad, place, capsys):
    """The harm is the only reason for the refusals above."""
    for source, harm in (("good", lambda folder: None), ("sharded", lambda folder: None), ("good", imported())):
        bad(source, harm)
        assert cli.main([*GENERATE, "--max_tokens", "2"]) == 0, capsys.readouterr().err
        assert (place / "answers.jsonl").stat().st_size > 0
        (place / "answers.jsonl").unlink()


def test_a_reward_model_writes_nothing(bad, place, capsys):
    bad("scorer", lambda folder: None)
    for command in (GENERATE, CHAT, EXPORT, EVALUATE, FINE_TUNE, RANK):
        said = refused(capsys, place, *command)
        assert said.startswith("bad")
        assert "reward model" in said


def test_an_adapter_is_no_model(bad, place, capsys):
    bad("adapter", lambda folder: None)
    for command in (GENERATE, CHAT, EXPORT, EVALUATE, JUDGE, FINE_TUNE, REINFORCE):
        assert refused(capsys, place, *command).startswith("bad")


def test_what_is_no_folder(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    for command in ("chat", "export", "generate"):
        rest = {"chat": ["--message", "a"], "export": ["--out", "x.gguf"], "generate": ["--text", "a"]}[command]
        for name in ("good/config.json", "good/nowhere", "x" * 300):
            assert refused(capsys, place, command, name, *rest).startswith(name)
        assert "a path" in refused(capsys, place, command, "", *rest)


def test_folders_that_may_not_be_read(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    with tempfile.TemporaryDirectory() as name:  # not below a folder that its owner alone may enter
        os.chmod(name, 0o755)
        model = Path(name) / "model"
        shutil.copytree(place / "good", model)
        assert cli.main(["generate", str(model), "--text", "a", "--device", "cpu", "--max_tokens", "2"]) == 0
        capsys.readouterr()
        for file in (CONFIG, WEIGHTS, TOKENIZER):
            (model / file).chmod(0)
            with nobody():
                said = refused(capsys, Path(name), "generate", str(model), "--text", "a", "--device", "cpu")
            (model / file).chmod(0o644)
            assert said.startswith(str(model / file))
            assert "Permission denied" in said
        model.chmod(0)
        with nobody():
            said = refused(capsys, Path(name), "chat", str(model), "--message", "a", "--device", "cpu")
        model.chmod(0o755)
        assert said.startswith(str(model))
        assert "Permission denied" in said
