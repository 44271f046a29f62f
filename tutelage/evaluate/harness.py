"""lm-eval's harness on our models: ``simple_evaluate(model=harness_model("runs/demo/sft/checkpoint"), tasks=[...])``.

lm-eval is no dependency of this package: pip install lm-eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.assistant.assistant import Assistant
from tutelage.errors import UsageError
from tutelage.evaluate.likelihoods import likelihoods
from tutelage.generate.sampler import Sampling
from tutelage.records import Message
from tutelage.text.chat import begun, render_answers, render_prompts, render_texts

_TOKENS = 256  # of an answer, where a task does not say
_CHAT = "\x02"  # begins what stands for a conversation in the harness
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def harness_model(model: str | Path | Assistant, *, device: str = "auto", dtype: str = "auto") -> Any:
    """An ``lm_eval.api.model.LM`` of a checkpoint. Raises UsageError where lm-eval is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError:
        raise UsageError("lm-eval is not installed: pip install lm-eval") from None
    assistant = model if isinstance(model, Assistant) else Assistant.load(model, device=device, dtype=dtype)
    adapter = Adapter(assistant)

    class TutelageLM(LM):
        tokenizer_name = assistant.name

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return adapter.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            return [adapter.rolling(request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return adapter.generate_until([request.args for request in requests])

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return adapter.conversation(chat_history)

    return TutelageLM()


class Adapter:
    """lm-eval's three questions, without lm-eval."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant, self._decoder, self._tokenizer = assistant, assistant.decoder, assistant.tokenizer
        self._conversations: dict[str, tuple[Message, ...]] = {}

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-probability, whether it is what greedy decoding writes) of each (context, continuation).

        A context that is too long loses its beginning, as with lm-eval's own models.
        """
        rows = [self._pair(context, text) for context, text in pairs]
        longest = self._assistant.context + 1  # the last token is not read
        cut = [(before[-max(1, longest - len(after)) :], after) for before, after in rows]
        found = likelihoods(self._decoder, cut, pad_id=self._tokenizer.pad_id, dtype=self._assistant.dtype)
        return [(one.logprob, one.greedy) for one in found]

    def rolling(self, text: str) -> float:
        """The log-probability of a whole text of any length.

        It is cut into windows of the context's length; the last one begins so far to the left that it is full.
        """
        ids, size = self._tokenizer.encode(text), self._assistant.context
        rows = []
        for start in range(0, len(ids), size):
            targets = ids[start : start + size]
            before = [self._tokenizer.bos_id, *ids][max(0, start + len(targets) - size) : start + 1]
            rows.append((before, targets))
        found = likelihoods(self._decoder, rows, pad_id=self._tokenizer.pad_id, dtype=self._assistant.dtype)
        return sum(one.logprob for one in found)

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The answer to each (context, settings): ``until``, ``max_gen_toks``, ``do_sample`` and how it is sampled.

        An answer has at most half of the context; a prompt that is too long for the rest loses its beginning.
        """
        answers = [""] * len(asked)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, (context, settings) in enumerate(asked):
            groups.setdefault((context.startswith(_CHAT), *_settings(settings)), []).append(i)
        for (chat, stop, sampling), members in groups.items():
            most = min(sampling.max_tokens, self._assistant.context // 2)  # or little of the prompt is left
            sampling = sampling.model_copy(update={"max_tokens": most})
            rows = [self._prompt(asked[i][0])[most - self._assistant.context :] for i in members]
            written = self._assistant.complete(rows, sampling, chat=chat, stop=stop)
            for i, (completion,) in zip(members, written, strict=True):
                answers[i] = completion.text
        return answers

    def conversation(self, turns: Sequence[Mapping[str, str]]) -> str:
        """A conversation as the harness passes it on; it comes back as a prompt, and is then rendered as everywhere."""
        messages = tuple(Message.model_validate({"role": turn["role"], "content": turn["content"]}) for turn in turns)
        text = _CHAT + "\n".join(f"{message.role}: {message.text}" for message in messages)
        self._conversations[text] = messages
        return text

    def _prompt(self, context: str) -> list[int]:
        if context.startswith(_CHAT):
            return render_prompts(self._tokenizer, [self._messages(context)])[0]
        return begun(self._tokenizer, self._tokenizer.encode(context))

    def _messages(self, context: str) -> tuple[Message, ...]:
        if context not in self._conversations:
            raise UsageError("a task adds text to the conversation that it asks with: run it without the chat template")
        return self._conversations[context]

    def _pair(self, context: str, text: str) -> tuple[list[int], list[int]]:
        if context.startswith(_CHAT):
            before, (after,) = render_answers(self._tokenizer, self._messages(context), [text.lstrip()], [False])
            return before, after
        return render_texts(self._tokenizer, [(context, text)])[0]


def _settings(given: Mapping[str, Any]) -> tuple[tuple[str, ...], Sampling]:
    """Stop strings and sampling of lm-eval's ``gen_kwargs``; greedy unless ``do_sample`` or a temperature says otherwise."""
    until = given.get("until") or ()
    sampled = bool(given.get("do_sample", (given.get("temperature") or 0) > 0))
    chosen = {name: given[name] for name in _SAMPLING if sampled and given.get(name) is not None}
    most = given.get("max_gen_toks") or given.get("max_tokens") or given.get("max_new_tokens") or _TOKENS
    sampling = Sampling(**{"temperature": 1.0 if sampled else 0.0, **chosen, "max_tokens": most})
    return (until,) if isinstance(until, str) else tuple(until), sampling
