"""How a model writes calls of tools, found out from its chat template, and reading the calls out of what it writes.

A format that is understood has JSON with the tool's name before its arguments, as Hermes, Qwen and Llama 3 have it:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Rome"}}
    </tool_call>
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tutelage.errors import UsageError
from tutelage.records import Message, Tool, ToolCall
from tutelage.text.layout import spoken
from tutelage.text.tokenizer import Tokenizer

_PROBES = (ToolCall(name="probe_one", arguments={"at": "1a"}), ToolCall(name="probe_two", arguments={"at": "2b"}))
_ASK = Message(role="user", content="Ask")


@dataclass(frozen=True)
class ToolFormat:
    """The texts around a call's name and arguments, with control tokens by their names."""

    before: str
    """From the start of the answer to the name of the first call, its quotation mark too."""
    between: str
    """From a name, its closing quotation mark first, to the arguments."""
    following: str | None
    """From the arguments of a call to the name of the next; None where an answer has one call at most."""
    after: str
    """From the last arguments to the end of the answer."""
    hidden: tuple[str, ...] = ()
    """The names of control tokens, which do not show in an answer's text."""

    def shown(self, text: str) -> str:
        """One of the texts as it is in an answer."""
        for name in self.hidden:
            text = text.replace(name, "")
        return text

    @cached_property
    def marker(self) -> str:
        """The word that begins each call; empty where a call is known by its JSON and has to begin the answer."""
        return (self.shown(self.before).partition("{")[0].split() or [""])[-1].strip("[")

    @cached_property
    def closing(self) -> str:
        """The word that ends each call, perhaps none."""
        return self.shown(self.after).strip("}] \n")

    @property
    def several(self) -> bool:
        """Whether an answer may have more than one call."""
        return self.following is not None and bool(self.marker)

    @cached_property
    def header(self) -> re.Pattern[str]:
        """From the marker to the arguments, with white space as the model likes it; group 1 is the name as JSON writes it."""
        lead = self.shown(self.before).rpartition(self.marker)[2] if self.marker else self.shown(self.before)
        return re.compile(rf'\s*{_spaced(lead[:-1])}"((?:[^"\\]|\\.)*)"\s*{_spaced(self.between[1:])}(?=\{{)')


def _spaced(text: str) -> str:
    """A pattern of the text's words and punctuation, with any white space between and after them."""
    return "".join(re.escape(part) + r"\s*" for part in re.findall(r'"[^"]*"|[^\s"]', text))


def takes_tools(tokenizer: Tokenizer) -> bool:
    """Whether the chat template tells a model which tools it has. Our own layout does not."""
    if tokenizer.chat is None or tokenizer.chat.template is None:
        return False
    template, probe = tokenizer.chat.template, Tool(name="probe_tool")
    try:
        return "probe_tool" in template.text([_ASK], ask=True, tools=[probe])
    except UsageError:
        return False


def tool_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """How the model writes calls; None where its template has no place for them, or writes them in a way not understood here."""
    found = [_calls(tokenizer, _PROBES[:count]) for count in (1, 2)]
    if found[0] is None or len(found[0]) != 3:
        return None
    before, between, after = found[0]
    two = found[1] or []
    alike = len(two) == 5 and [*two[:2], *two[3:]] == [before, between, between, after]
    following = two[2] if alike else None
    if not before.endswith('"') or not between.startswith('"'):
        return None
    hidden = tuple(tokenizer.name_of(i) for i in sorted(tokenizer.special_ids) if not tokenizer.token_bytes(i))
    return ToolFormat(before, between, following, after, hidden)


def _calls(tokenizer: Tokenizer, calls: Sequence[ToolCall]) -> list[str] | None:
    """The texts before, between and after the names and arguments of an answer with these calls; None where it lacks them."""
    message = Message(role="assistant", content="", tool_calls=tuple(calls))
    try:
        text = spoken(message) if tokenizer.chat is None else _templated(tokenizer, message)
    except UsageError:
        return None
    parts = []
    for call in calls:
        for piece in (call.name, json.dumps(call.arguments)):
            head, found, text = text.partition(piece)
            if not found:
                return None
            parts.append(head)
    return [*parts, text]


def _templated(tokenizer: Tokenizer, message: Message) -> str:
    """What a template adds to the prompt for an answer, up to the token that ends it. UsageError where it refuses."""
    assert tokenizer.chat is not None
    template = tokenizer.chat.require_template()
    prompt, whole = template.text([_ASK], ask=True), template.text([_ASK, message])
    if not whole.startswith(prompt):
        raise UsageError("the prompt for an answer is not how the conversation with the answer begins")
    ends = [tokenizer.name_of(i) for i in tokenizer.end_ids]
    return re.split("|".join(map(re.escape, ends)), whole[len(prompt) :], maxsplit=1)[0]


class Piece(NamedTuple):
    """What is new of an answer: content; or the name of a call that begins; or more of its arguments."""

    kind: str
    """content, name or arguments"""
    text: str


class CallReader:
    """Tells calls from content in a text that arrives in pieces, however it is cut.

    What looks like a call and turns out not to be one is content. White space before and between calls is dropped.
    """

    def __init__(self, format: ToolFormat, most: int | None = None, *, silent: bool = False) -> None:
        """``most``: calls beyond so many are dropped. ``silent``: so is content."""
        self._format, self._most, self._silent = format, most, silent
        self._state, self._text, self.calls = "content", "", 0
        self._lead = ""  # the marker of what may be a call, and the white space before it
        self._depth, self._quoted, self._escaped, self._any = 0, False, False, False

    def push(self, text: str) -> list[Piece]:
        """What has become certain with more text."""
        self._text += text
        pieces: list[Piece] = []
        step = {"content": self._content, "header": self._header, "arguments": self._arguments, "tail": self._tail}
        while step[self._state](pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """What is left when nothing more comes."""
        text, self._text = self._text, ""
        if self._state == "header":
            return self._said(self._lead + text)
        return self._said(text if self.calls == 0 else text.strip()) if self._state == "content" else []

    def _said(self, text: str) -> list[Piece]:
        self._any = self._any or bool(text.strip())
        return [Piece("content", text)] if text and not self._silent else []

    def _content(self, pieces: list[Piece]) -> bool:
        marker, text = self._format.marker, self._text
        if not marker:
            if not self._any and not self.calls and (not text.strip() or text.lstrip()[0] in "{["):
                self._state = "header"
                return bool(text.strip())
            pieces += self._said(text)
            self._text = ""
            return False
        place = text.find(marker)
        if place < 0:  # keep what may belong to a marker, and the white space before it
            held = next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if text.endswith(marker[:n])), 0)
            certain = text[: len(text) - held].rstrip()
            pieces += self._said(certain if not self.calls else certain.lstrip())
            self._text = text[len(certain) :]
            return False
        said = text[:place].rstrip() if not self.calls else text[:place].strip()
        pieces += self._said(said)
        self._lead = text[len(said) : place + len(marker)]
        self._text, self._state = text[place + len(marker) :], "header"
        return True

    def _header(self, pieces: list[Piece]) -> bool:
        found = self._format.header.match(self._text)
        if found:
            try:
                name = json.loads(f'"{found[1]}"')
            except ValueError:
                name = found[1]
            self.calls += 1
            if self._kept:
                pieces.append(Piece("name", name))
            self._text, self._state, self._depth = self._text[found.end() :], "arguments", 0
            return True
        marker = self._format.marker
        if marker and marker in self._text:  # the one before it was only spoken of
            said, _, self._text = self._text.partition(marker)
            kept = (self._lead + said).rstrip()
            pieces += self._said(kept)
            self._lead = (self._lead + said)[len(kept) :] + marker
            return True
        closed = self._format.closing and self._format.closing in self._text
        if closed or (not self._format.marker and len(self._text) > 300):  # not a call after all
            pieces += self._said(self._lead + self._text)
            self._text, self._state, self._any = "", "content", True
        return False

    @property
    def called(self) -> int:
        """How many calls were given."""
        return self.calls if self._most is None else min(self.calls, self._most)

    @property
    def cut(self) -> bool:
        """Whether the last call lacks the end of its arguments so far."""
        return self._state == "arguments" and self._kept

    @property
    def _kept(self) -> bool:
        return self._most is None or self.calls <= self._most

    def _arguments(self, pieces: list[Piece]) -> bool:
        for place, c in enumerate(self._text):
            if self._quoted:
                self._escaped, ends = c == "\\" and not self._escaped, c == '"' and not self._escaped
                self._quoted = not ends
            elif c == '"':
                self._quoted = True
            else:
                self._depth += (c in "{[") - (c in "}]")
            if not self._depth and not self._quoted:
                self._give(pieces, self._text[: place + 1])
                self._text, self._state = self._text[place + 1 :], "tail"
                return True
        self._give(pieces, self._text)
        self._text = ""
        return False

    def _give(self, pieces: list[Piece], text: str) -> None:
        if text and self._kept:
            pieces.append(Piece("arguments", text))

    def _tail(self, pieces: list[Piece]) -> bool:
        closing = self._format.closing
        if closing and closing not in self._text:
            return False
        self._text = self._text.partition(closing)[2] if closing else self._text.lstrip("}] \n")
        self._state = "content" if closing or self._text else "tail"
        return bool(self._text)
