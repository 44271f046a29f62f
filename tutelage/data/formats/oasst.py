"""Open-Assistant's conversation trees: prompters and assistants alternate, sibling answers are ranked by people (0: best)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.data.formats import parts
from tutelage.data.read.rows import RowError
from tutelage.records import Completion, Conversation, Message, Prompt, Ranking, Role

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
_MOST = 9  # completions of a Ranking

Node = dict[str, Any]
Path = tuple[Message, ...]


# ---- out of rows


def tree_conversations(row: parts.Fields) -> Iterator[Conversation | parts.Skip]:
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


def tree_rankings(row: parts.Fields) -> Iterator[Ranking | parts.Skip]:
    """Each question with two or more ranked answers, wherever in the tree."""
    stack, skips = _start(row)
    while stack:
        node, before = stack.pop()
        path = (*before, _message(node))
        replies = _usable_replies(node, skips)
        stack += [(reply, path) for reply in reversed(replies)]
        if node["role"] != "prompter" or len(replies) < 2:
            continue
        ranked = sorted((r for r in replies if r.get("rank") is not None), key=lambda reply: reply["rank"])
        if len(ranked) < 2:
            skips.append(parts.Skip("answers without ranks"))
            continue
        skips += [parts.Skip("answer without a rank")] * (len(replies) - len(ranked))
        skips += [parts.Skip("answer beyond the ninth")] * max(0, len(ranked) - _MOST)
        ranked = ranked[:_MOST]
        yield Ranking(
            prompt=Prompt(messages=path, id=parts.as_text(node.get("message_id")), meta=_meta(row, node)),
            completions=tuple(Completion(text=r["text"], model=r.get("model_name") or "") for r in ranked),
            ranks=tuple(r["rank"] + 1 for r in ranked),
        )
    yield from skips


def _best_answer(question: Node, skips: list[parts.Skip]) -> Node | None:
    """The best-ranked or the only answer; None where nothing tells which is best."""
    replies = _usable_replies(question, skips)
    ranked = [r for r in replies if r.get("rank") is not None]
    if ranked:
        return min(ranked, key=lambda reply: reply["rank"])
    if len(replies) > 1:
        skips.append(parts.Skip("answers without ranks"))
        return None
    return replies[0] if replies else None


def _start(row: parts.Fields) -> tuple[list[tuple[Node, Path]], list[parts.Skip]]:
    """(the first message, with what comes before it; why there is none). It is the row's ``prompt``, or the row itself."""
    if row.get("tree_state", "ready_for_export") != "ready_for_export":
        return [], [parts.Skip("tree is not finished")]
    root = row.get("prompt", row)
    _check(root, "prompt")
    if root["role"] != "prompter":
        raise RowError("does not start with a question", field="prompt.role", expected="prompter", found=root["role"])
    return ([], [parts.Skip("deleted tree")]) if _unusable(root) else ([(dict(root), ())], [])


def _check(node: Any, field: str) -> None:
    if not isinstance(node, dict):
        raise RowError("is not a message", field=field, expected="an object", found=node)
    role, text, rank, replies = node.get("role"), node.get("text"), node.get("rank"), node.get("replies", [])
    for name, good, problem, expected in (
        ("text", isinstance(text, str), "is not text", "text"),
        ("role", isinstance(role, str) and role in _ROLES, "is not a role", "prompter or assistant"),
        ("replies", isinstance(replies, list), "is not a list", "a list of messages"),
        ("rank", rank is None or (isinstance(rank, int) and rank >= 0), "is not a rank", "0 or more"),
    ):
        if not good:
            raise RowError(problem, field=f"{field}.{name}", expected=expected, found=node.get(name))


def _unusable(node: Node) -> str:
    if node.get("deleted"):
        return "deleted message"
    if node.get("review_result") is False:
        return "message that failed its review"
    return "" if node["text"].strip() else "empty message"


def _usable_replies(node: Node, skips: list[parts.Skip]) -> list[Node]:
    """Replies that can be used; one Skip is added for each that cannot (its own replies go with it)."""
    good = []
    for reply in node.get("replies", []):
        _check(reply, "replies")
        if reply["role"] == node["role"]:
            raise RowError("answers itself", field="replies.role", expected="alternating roles", found=reply["role"])
        if reason := _unusable(reply):
            skips.append(parts.Skip(reason))
        else:
            good.append(reply)
    return good


def _message(node: Node) -> Message:
    return Message(role=_ROLES[node["role"]], content=node["text"])


def _meta(row: parts.Fields, node: Node) -> dict[str, Any]:
    return {k: v for k, v in (("tree", row.get("message_tree_id")), ("lang", node.get("lang"))) if v}


# ---- into rows


def conversation_row(record: Conversation) -> parts.Row:
    """A tree without branches."""
    parts.check_alternating(record.messages[:-1])
    if record.messages[-1].role != "assistant":
        raise parts.CannotHold("it does not end with an answer")
    return _tree(record.messages, [], record.meta, "")


def ranking_row(record: Ranking) -> parts.Row:
    """The dialogue as one path, the completions as ranked siblings at its end. Ids are invented where there are none."""
    parts.check_alternating(record.prompt.messages)
    answers = [
        {"role": "assistant", "text": parts.some(completion.text), "rank": rank - 1, "replies": []}
        | ({"model_name": completion.model} if completion.model else {})
        for completion, rank in zip(record.completions, parts.ranks_without_gaps(record.ranks), strict=True)
    ]
    return _tree(record.prompt.messages, answers, record.prompt.meta, record.prompt.id)


def _tree(path: Sequence[Message], last: list[parts.Row], meta: parts.Row, id: str) -> parts.Row:
    said = json.dumps([[m.role, m.text] for m in path], ensure_ascii=False) + json.dumps(last, ensure_ascii=False)
    name = hashlib.sha256(said.encode()).hexdigest()[:16]
    replies = [reply | {"message_id": f"{name}-{len(path) + i}"} for i, reply in enumerate(last)]
    names = {"user": "prompter", "assistant": "assistant"}
    for i in reversed(range(len(path))):
        own_id = id if id and i == len(path) - 1 else f"{name}-{i}"
        node: parts.Row = {"message_id": own_id, "role": names[path[i].role], "text": parts.some(path[i].text)}
        if isinstance(meta.get("lang"), str):
            node["lang"] = meta["lang"]
        replies = [node | {"replies": replies}]
    return {"message_tree_id": name, "tree_state": "ready_for_export", "prompt": replies[0]}


OASST = parts.Format(
    "oasst",
    parts.has("message_tree_id prompt", "message_id replies"),
    read={Ranking: tree_rankings, Conversation: tree_conversations},
    write={Conversation: parts.Writer(conversation_row), Ranking: parts.Writer(ranking_row, keeps=("id", "model"))},
)
