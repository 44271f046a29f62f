"""Open-Assistant's conversation trees: prompters and assistants alternate, sibling answers are ranked by people (0: best).

A file has one tree per row, or one message per row (a flat export), of which the trees are built first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.formats.preferences import MOST
from tutelage.data.read.rows import Row, RowError, Skip, check
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking, Record, Role

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}

Node = dict[str, Any]
Path = tuple[Message, ...]


def tree_conversations(row: parts.Fields) -> Iterator[Conversation | Skip]:
    """The best paths: at each question the best-ranked answer, then every follow-up; one conversation per end of a path.

    A path ends at an answer none of whose follow-ups has a best answer.
    """
    stack, skips = _start(row)
    while stack:
        question, before = stack.pop()
        best = _best_answer(question, skips)
        if best is None:
            continue
        path = (*before, _message(question), _message(best))
        questions = _usable_replies(best, skips)
        if all(_best_answer(q, []) is None for q in questions):
            yield Conversation(messages=path, meta=_meta(row, best))
        stack += [(q, path) for q in reversed(questions)]
    yield from skips


def tree_rankings(row: parts.Fields) -> Iterator[Ranking | Skip]:
    """Each question with two or more ranked answers, wherever in the tree."""
    stack, skips = _start(row)
    while stack:
        node, before = stack.pop()
        path = (*before, _message(node))
        replies = _usable_replies(node, skips)
        stack += [(reply, path) for reply in reversed(replies)]
        if node["role"] != "prompter" or len(replies) < 2:
            continue
        ranked = _ranked(replies)
        if len(ranked) < 2:
            skips.append(Skip("answers without ranks"))
            continue
        skips += [Skip("answer without a rank")] * (len(replies) - len(ranked))
        skips += [Skip("answer beyond the ninth")] * max(0, len(ranked) - MOST)
        ranked = ranked[:MOST]
        yield Ranking(
            prompt=Prompt(messages=path, id=parts.as_text(node.get("message_id")), meta=_meta(row, node)),
            completions=tuple(Completion(text=r["text"], model=r.get("model_name") or "") for r in ranked),
            ranks=tuple(int(r["rank"]) + 1 for r in ranked),
        )
    yield from skips


def _best_answer(question: Node, skips: list[Skip]) -> Node | None:
    """The best-ranked or the only answer; None where nothing tells which is best."""
    replies = _usable_replies(question, skips)
    ranked = _ranked(replies)
    if not ranked and len(replies) > 1:
        skips.append(Skip("answers without ranks"))
        return None
    return next(iter(ranked or replies), None)


def _ranked(replies: list[Node]) -> list[Node]:
    return sorted((reply for reply in replies if reply.get("rank") is not None), key=lambda reply: reply["rank"])


def _start(row: parts.Fields) -> tuple[list[tuple[Node, Path]], list[Skip]]:
    """(the first message, with what comes before it; why there is none). It is the row's ``prompt``, or the row itself."""
    if row.get("tree_state", "ready_for_export") != "ready_for_export":
        return [], [Skip("tree is not finished")]
    root = row.get("prompt", row)
    _check(root, "prompt")
    check(root["role"] == "prompter", "does not start with a question", "prompt.role", "prompter", root["role"])
    return ([], [Skip("deleted tree")]) if _unusable(root) else ([(root, ())], [])


def trees(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows of messages -> rows of trees, each at the place of its first message. Holds all messages of a file."""
    found: dict[str, tuple[Row, Node]] = {}
    for row in rows:
        try:
            if isinstance(row.value, dict):
                _check(row.value, "")
        except RowError as bad:
            row = replace(row, value=bad.at(row.where))
        node = row.value
        if not isinstance(node, dict):
            yield row
        elif (
            found.setdefault(parts.as_text(node.get("message_id")), (row, node := {**node, "replies": []}))[1]
            is not node
        ):
            yield replace(row, value=Skip("message given before"))
    roots = []
    for row, node in found.values():
        _, parent = found.get(parts.as_text(node.get("parent_id")), (row, None))
        if parent is not None:
            parent["replies"].append(node)
        elif node.get("parent_id"):
            yield replace(row, value=Skip("reply to a message that is not there"))
        else:
            roots.append(row)
    for row in roots:
        yield replace(row, value=found[parts.as_text(row.value.get("message_id"))][1])


def _check(node: Any, field: str) -> None:
    check(isinstance(node, dict), "is not a message", field, "an object", node)
    at = f"{field}." if field else ""
    text, role, replies, rank = (node.get(name) for name in ("text", "role", "replies", "rank"))
    check(isinstance(text, str), "is not text", f"{at}text", "text", text)
    check(role in (*_ROLES,), "is not a role", f"{at}role", "prompter or assistant", role)
    check(isinstance(replies, list | None), "is not a list", f"{at}replies", "a list of messages", replies)
    good = rank is None or (isinstance(rank, int | float) and rank >= 0 and rank == int(rank))
    check(good, "is not a rank", f"{at}rank", "0 or more", rank)


def _unusable(node: Node) -> str:
    if node.get("deleted"):
        return "deleted message"
    if node.get("review_result") is False:
        return "message that failed its review"
    return "" if node["text"].strip() else "empty message"


def _usable_replies(node: Node, skips: list[Skip]) -> list[Node]:
    """Replies that can be used; one Skip is added for each that cannot (its own replies go with it)."""
    good = []
    for reply in node.get("replies") or []:
        _check(reply, "replies")
        if reply["role"] == node["role"]:
            raise RowError("answers itself", "replies.role", "alternating roles", reply["role"])
        if reason := _unusable(reply):
            skips.append(Skip(reason))
        else:
            good.append(reply)
    return good


def _message(node: Node) -> Message:
    return Message(role=_ROLES[node["role"]], content=node["text"])


def _meta(row: parts.Fields, node: Node) -> dict[str, Any]:
    return {k: v for k, v in (("tree", row.get("message_tree_id")), ("lang", node.get("lang"))) if v}


_READ: Mapping[type[Record], parts.Reader] = {Ranking: tree_rankings, Conversation: tree_conversations}

FORMATS = (
    parts.Format("oasst", parts.has("message_tree_id prompt", "message_id replies"), _READ),
    parts.Format("oasst_flat", parts.has("message_id text role"), _READ, gather=trees),
)
