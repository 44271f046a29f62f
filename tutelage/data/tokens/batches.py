"""Conversations and rankings -> token examples -> padded tensors. b: batch, s: sequence, k: completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import torch
from torch import Tensor

from tutelage.data.formats import OnBad, read_prompts
from tutelage.errors import DataError, UsageError
from tutelage.records import Conversation, Message, Prompt
from tutelage.text.chat import Rendered, render, render_batch
from tutelage.text.tokenizer import Tokenizer

_CHUNK = 512  # conversations rendered together
PASS = 1024
"""Padded tokens that cost as much as one more forward and backward pass: its dispatch, and preparing matrix products of new
shapes. On two cores, batches of 32 of the demo's demonstrations took 124 ms with 2,771 padded tokens in one pass, and 150 to 200
ms with 1,850 to 2,050 in two or three passes of similar lengths."""

REFUSED = "refused by the chat template"
TOO_LONG = "too long"
EMPTY = "whose last message is empty"

Example = Rendered
"""A demonstration in tokens; ``loss_mask[i]`` is True where the loss counts ``ids[i]``."""


@dataclass(frozen=True)
class Packed:
    """A prompt and its completions in one row [prompt | c1 | c2 | ...]: the prompt runs through the model once."""

    ids: list[int]
    positions: list[int]
    """Each completion continues from the prompt's end."""
    segments: list[int]
    """0 in the prompt, i in the i-th completion (from 1)."""
    last: list[int]
    """[k] index of each completion's last token, where its score is read."""


def encode_conversations(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    max_length: int,
    *,
    places: Sequence[str] = (),
    on_bad: OnBad = "stop",
) -> tuple[list[Example], dict[str, int]]:
    """Examples of at most ``max_length`` tokens, and how many conversations were left out or shortened, by reason.

    Each example ends with the end token of an assistant's turn, because nothing after the last one is learnt. A conversation
    that is too long is cut after the last such turn that fits ("shortened"), or left out if none does ("too long"). One that
    the chat template refuses raises DataError with its place, or is left out as well; ``places`` may grow with the iterator.
    """
    examples: list[Example] = []
    reasons: Counter[str] = Counter()
    iterator, end_ids, done = iter(conversations), tokenizer.end_ids, 0
    while chunk := list(islice(iterator, _CHUNK)):
        dialogues = [conversation.messages for conversation in chunk]
        for rendered in render_each(tokenizer, dialogues, places[done:], on_bad):
            if rendered is None:
                reasons[REFUSED] += 1
                continue
            # Text never contains an end token, so each one that counts ends an assistant's turn.
            pairs = zip(rendered.ids, rendered.loss_mask, strict=True)
            ends = [i + 1 for i, (token, counted) in enumerate(pairs) if counted and token in end_ids]
            fitting = [end for end in ends if end <= max_length]
            if len(fitting) < len(ends) or not ends:
                reasons["shortened" if fitting else "too long" if ends else "no answer to learn"] += 1
            if fitting:
                examples.append(Example(rendered.ids[: fitting[-1]], rendered.loss_mask[: fitting[-1]]))
        done += len(chunk)
    return examples, dict(reasons)


def render_each(
    tokenizer: Tokenizer,
    dialogues: Sequence[Sequence[Message]],
    places: Sequence[str] = (),
    on_bad: OnBad = "stop",
    *,
    add_generation_prompt: bool = False,
) -> list[Rendered | None]:
    """``render_batch`` of rows of files. One that cannot be rendered raises DataError with its place, or is None."""
    tokenizer.require_template()
    with suppress(UsageError):
        return [*render_batch(tokenizer, dialogues, add_generation_prompt=add_generation_prompt)]
    rows: list[Rendered | None] = []
    for messages, place in zip_longest(dialogues, places[: len(dialogues)]):
        try:
            rows.append(render(tokenizer, messages, add_generation_prompt=add_generation_prompt))
        except UsageError as error:
            if on_bad == "stop":
                raise DataError(str(error), path=place) from None
            rows.append(None)
    return rows


def fitting_prompts(
    path: Path, models: Sequence[tuple[Tokenizer, int]], on_bad: OnBad = "stop"
) -> tuple[list[Prompt], list[list[int]], dict[str, int]]:
    """The prompts of a file that ask something and are not too long for any model, given as tokenizer and longest prompt.

    Also returns their ids by the last tokenizer, and how many prompts are left out by reason, which is printed too. Raises
    DataError where none is left.
    """
    places: list[str] = []
    prompts = list(read_prompts(path, on_bad=on_bad, places=places))
    if not prompts:
        raise DataError("holds no prompts", path=path)
    asking = [i for i, prompt in enumerate(prompts) if _asks(prompt.messages[-1])]
    reasons: Counter[str] = Counter({EMPTY: len(prompts) - len(asking)})
    prompts, places = [prompts[i] for i in asking], [places[i] for i in asking]
    ids: list[list[int]] = [[] for _ in prompts]
    for tokenizer, longest in models:
        dialogues = [prompt.messages for prompt in prompts]
        rendered = render_each(tokenizer, dialogues, places, on_bad, add_generation_prompt=True)
        ids = [[] if row is None else row.ids for row in rendered]
        reasons += Counter({REFUSED: rendered.count(None), TOO_LONG: sum(len(row) > longest for row in ids)})
        kept = [i for i, row in enumerate(ids) if row and len(row) <= longest]
        prompts, places, ids = ([rows[i] for i in kept] for rows in (prompts, places, ids))  # type: ignore[assignment]
    reasons = +reasons
    said = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
    if not prompts:
        raise DataError(f"no prompt is left to answer: {said}", path=path)
    if said:
        print(f"{path}: left out {said}")
    return prompts, ids, dict(reasons)


def _asks(message: Message) -> bool:
    """Whether there is anything in a prompt's last message; a tool's output may be empty."""
    return message.role == "tool" or not isinstance(message.content, str) or bool(message.content.strip())


def cut_by_tokens(lengths: Sequence[int], most: int, tokens: int, multiple: int = 64) -> list[list[int]]:
    """A batch cut into forward passes in its order: lists of at most ``most`` indices (0: no limit), ``tokens`` when packed.

    A sequence that is longer has a pass of its own.
    """
    pieces: list[list[int]] = []
    for i in range(len(lengths)):
        if pieces and len(pieces[-1]) != most:
            together = [lengths[k] for k in (*pieces[-1], i)]
            width = packed_width(together, multiple)
            if len(first_fit(together, width)) * width <= tokens:
                pieces[-1].append(i)
                continue
        pieces.append([i])
    return pieces


def packed_width(lengths: Sequence[int], multiple: int) -> int:
    """The length of packed rows: that of the longest sequence, rounded up."""
    return -(-max(lengths) // multiple) * multiple


def cut_by_length(lengths: Sequence[int], most: int = 0, tokens: int = 0) -> list[list[int]]:
    """A batch cut into forward passes: lists of row indices, each of at most ``most`` rows of similar length (0: no limit).

    With ``tokens``, a pass has at most so many, padding included, or is one row.

    The rows are sorted by length and cut where padded tokens and passes together cost least, by dynamic programming; a pass costs
    as much as ``PASS`` tokens. What a batch teaches does not depend on how it is cut.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    most = most or len(order)
    cheapest, start = [0.0], [0]  # of the first j rows: the cost, and where the last pass starts
    for j in range(1, len(order) + 1):
        width = lengths[order[j - 1]]
        rows = min(
            j, most, max(1, tokens // (-(-width // 8) * 8)) if tokens else j
        )  # rows are padded to multiples of 8
        found = min((cheapest[i] + PASS + width * (j - i), i) for i in range(j - rows, j))
        cheapest.append(found[0])
        start.append(found[1])
    pieces, end = [], len(order)
    while end:
        pieces.append(order[start[end] : end])
        end = start[end]
    return pieces[::-1]


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int, multiple: int = 8) -> tuple[Tensor, Tensor]:
    """(ids int64 [b, s], mask bool [b, s], True on real tokens); s is the longest length rounded up to ``multiple``."""
    longest = max(map(len, sequences), default=0)
    width = -(-longest // multiple) * multiple
    ids = torch.full((len(sequences), width), pad_id, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.long)
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.long)
    return ids, torch.arange(width) < lengths[:, None]


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of indices of sequences that fit in ``width`` tokens together: the longest first, each in the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, left in enumerate(room) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def pack_examples(
    examples: Sequence[Example], pad_id: int, multiple: int = 64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Demonstrations one after the other in rows as long as the longest, in which none sees another: little is padding.

    Returns ids, targets, positions [r, s] and the attention mask [r, s, s]. ``targets`` has the token after each one where it
    counts, else -1; the last token of a demonstration predicts nothing and is left out. s is a multiple of ``multiple``, so that
    shapes recur.
    """
    lengths = [len(example.ids) - 1 for example in examples]
    rows = first_fit(lengths, packed_width(lengths, multiple))

    def in_rows(values: Callable[[int, Example], Iterable[int]], padding: int) -> Tensor:
        lists = [[value for n, i in enumerate(row, 1) for value in values(n, examples[i])] for row in rows]
        return pad_right(lists, padding, multiple)[0]

    def targets(n: int, example: Example) -> list[int]:
        pairs = zip(example.ids[1:], example.loss_mask[1:], strict=True)
        return [token if counted else -1 for token, counted in pairs]

    ids = in_rows(lambda n, example: example.ids[:-1], pad_id)
    positions = in_rows(lambda n, example: range(len(example.ids) - 1), 0)
    segments = in_rows(lambda n, example: [n] * (len(example.ids) - 1), -1)
    return ids, in_rows(targets, -1), positions, tree_mask(segments)


def pack_ranking(prompt_ids: Sequence[int], completion_ids: Sequence[Sequence[int]]) -> Packed:
    """Pack a ranking into one row. Raises ValueError for an empty completion, which has no last token."""
    if not all(completion_ids):
        raise ValueError("a completion without tokens cannot be scored")
    length = len(prompt_ids)
    packed = Packed(list(prompt_ids), list(range(length)), [0] * length, [])
    for segment, completion in enumerate(completion_ids, 1):
        packed.ids.extend(completion)
        packed.positions.extend(range(length, length + len(completion)))
        packed.segments.extend([segment] * len(completion))
        packed.last.append(len(packed.ids) - 1)
    return packed


def tree_mask(segments: Tensor) -> Tensor:
    """Attention of packed rankings: segments [b, s] (-1 is padding) -> bool [b, s, s], True where row may see column.

    A token sees itself and earlier tokens of the prompt and of its own completion. Padding sees itself, because the softmax
    of a row that sees nothing divides by zero.
    """
    length = segments.shape[1]
    row, column = segments[:, :, None], segments[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=segments.device)
    return (earlier & (row >= 0) & ((column == 0) | (column == row))) | itself
