"""Open-Assistant's conversation trees: prompters and assistants in turn, sibling answers ranked by people (0: best)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tutelage.data.row_parts import Fields, RowError, Skip, as_text
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking, Role

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
_MOST = 9  # completions of a Ranking

Node = dict[str, Any]
Path = tuple[Message, ...]


def tree_conversations(row: Fields) -> Iterator[Conversation | Skip]:
    """The best paths: at each question the best-ranked answer, then every follow-up; one conversation a path's end.

    A path ends at an answer with no follow-up that has a best answer in its turn.
    """
    root = _root(row)
    if isinstance(root, Skip):
        yield root
        return
    stack: list[tuple[Node, Path]] = [(root, ())]
    while stack:
        question, before = stack.pop()
        best, skips = _best_answer(question)
        yield from skips
        if best is None:
            continue
        path = (*before, _message(question), _message(best))
        questions, skips = _usable_replies(best)
        yield from skips
        if all(_best_answer(q)[0] is None for q in questions):
            yield Conversation(messages=path, meta=_meta(row, best))
        stack += [(q, path) for q in reversed(questions)]


def tree_rankings(row: Fields) -> Iterator[Ranking | Skip]:
    """Each question with two or more ranked answers, wherever in the tree it stands."""
    root = _root(row)
    if isinstance(root, Skip):
        yield root
        return
    stack: list[tuple[Node, Path]] = [(root, ())]
    while stack:
        node, before = stack.pop()
        path = (*before, _message(node))
        replies, skips = _usable_replies(node)
        yield from skips
        stack += [(reply, path) for reply in reversed(replies)]
        if node["role"] != "prompter" or len(replies) < 2:
            continue
        ranked = sorted((r for r in replies if r.get("rank") is not None), key=lambda reply: reply["rank"])
        if len(ranked) < 2:
            yield Skip("answers without ranks")
            continue
        yield from [Skip("answer without a rank")] * (len(replies) - len(ranked))
        yield from [Skip("answer beyond the ninth")] * max(0, len(ranked) - _MOST)
        ranked = ranked[:_MOST]
        yield Ranking(
            prompt=Prompt(messages=path, id=as_text(node.get("message_id")), meta=_meta(row, node)),
            completions=tuple(Completion(text=r["text"], model=r.get("model_name") or "") for r in ranked),
            ranks=tuple(r["rank"] + 1 for r in ranked),
        )


def _best_answer(question: Node) -> tuple[Node | None, list[Skip]]:
    """The best-ranked answer, or the only one; None where nothing tells which is best. And what is left out for it."""
    replies, skips = _usable_replies(question)
    ranked = [r for r in replies if r.get("rank") is not None]
    if ranked:
        return min(ranked, key=lambda reply: reply["rank"]), skips
    if len(replies) > 1:
        return None, [*skips, Skip("answers without ranks")]
    return (replies[0] if replies else None), skips


def _root(row: Fields) -> Node | Skip:
    """The first message: the row's ``prompt``, or the row itself where a file holds messages with their replies."""
    state = row.get("tree_state", "ready_for_export")
    if state != "ready_for_export":
        return Skip("tree is not finished")
    root = row.get("prompt", row)
    _check(root, "prompt")
    if root["role"] != "prompter":
        raise RowError("does not start with a question", field="prompt.role", expected="prompter", found=root["role"])
    return Skip("deleted tree") if _unusable(root) else dict(root)


def _check(node: Any, field: str) -> None:
    if not isinstance(node, dict):
        raise RowError("is no message", field=field, expected="an object", found=node)
    if not isinstance(node.get("text"), str):
        raise RowError("is no text", field=f"{field}.text", expected="a text", found=node.get("text"))
    if node.get("role") not in _ROLES:
        raise RowError("is no role", field=f"{field}.role", expected="prompter or assistant", found=node.get("role"))
    if not isinstance(node.get("replies", []), list):
        raise RowError("is no list", field=f"{field}.replies", expected="a list of messages", found=node["replies"])
    rank = node.get("rank")
    if rank is not None and (not isinstance(rank, int) or rank < 0):
        raise RowError("is no rank", field=f"{field}.rank", expected="0 or more", found=rank)


def _unusable(node: Node) -> str:
    if node.get("deleted"):
        return "deleted message"
    if node.get("review_result") is False:
        return "message that failed its review"
    return "" if node["text"].strip() else "empty message"


def _usable_replies(node: Node) -> tuple[list[Node], list[Skip]]:
    """Replies that can be used, and one Skip for each that cannot (its own replies go with it)."""
    good, skips = [], []
    for reply in node.get("replies", []):
        _check(reply, "replies")
        if reply["role"] == node["role"]:
            raise RowError("answers itself", field="replies.role", expected="roles in turn", found=reply["role"])
        reason = _unusable(reply)
        if reason:
            skips.append(Skip(reason))
        else:
            good.append(reply)
    return good, skips


def _message(node: Node) -> Message:
    return Message(role=_ROLES[node["role"]], content=node["text"])


def _meta(row: Fields, node: Node) -> dict[str, Any]:
    return {k: v for k, v in (("tree", row.get("message_tree_id")), ("lang", node.get("lang"))) if v}
