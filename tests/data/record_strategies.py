"""Records drawn by hypothesis, shared by the tests of reading and writing."""

from hypothesis import strategies as st

from tutelage.records import Answers, Completion, Conversation, Document, Message, Prompt, Ranking

letters = st.characters(exclude_categories=["Cs"])
text = st.text(letters, max_size=20)
some = text.filter(str.strip)
stripped = some.map(str.strip)
free = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**62) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
)
meta = st.dictionaries(st.text(letters, min_size=1, max_size=6).filter(lambda k: k != "completions"), free, max_size=3)


def message(role, content=text):
    return st.builds(Message, role=st.sampled_from(role.split()), content=content)


messages = st.lists(message("system user assistant"), min_size=1, max_size=5).map(tuple)
source = st.text("abc", min_size=1, max_size=4)
document = st.builds(Document, text=text.filter(bool), source=source, meta=meta)
conversation = st.builds(Conversation, messages=messages, source=source, meta=meta)
asked = st.builds(
    lambda before, last: (*before, last), st.lists(message("system user assistant"), max_size=4), message("user")
)
prompt = st.builds(Prompt, messages=asked, id=text, source=source, meta=meta)
sampling = st.dictionaries(text, st.integers(-9, 2**60) | st.floats(allow_nan=False, allow_infinity=False), max_size=2)
completion = st.builds(
    Completion, text=text, finished=st.booleans(), model=text, seed=st.none() | st.integers(0, 2**62), sampling=sampling
)
answers = st.builds(Answers, prompt=prompt, completions=st.lists(completion, min_size=1, max_size=3).map(tuple))


@st.composite
def ranking(draw, *, asked=prompt, answer=completion, least=2, most=9):
    """Any ranking of so many answers, ties and gaps and all."""
    k = draw(st.integers(least, most))

    def many(strategy):
        return tuple(draw(st.lists(strategy, min_size=k, max_size=k)))

    return Ranking(
        prompt=draw(asked),
        completions=many(answer),
        ranks=many(st.integers(1, 9)),
        ratings=many(st.integers(1, 7)) if draw(st.booleans()) else None,
        flags=many(st.lists(st.sampled_from(["harmful", "false"]), max_size=2).map(tuple))
        if draw(st.booleans())
        else None,
        all_bad=draw(st.booleans()),
        labeller=draw(text),
        seconds=draw(st.none() | st.floats(0, 1e6)),
        source=draw(source),
    )


@st.composite
def dialogue(draw, content=some, *, system=True, answered=True, turns=3):
    """User and assistant by turns, perhaps after a system message; ends with the assistant, or with the user."""
    rounds = draw(st.integers(1, turns))
    said = [Message(role="system", content=draw(content))] if system and draw(st.booleans()) else []
    for i in range(rounds):
        said.append(Message(role="user", content=draw(content)))
        if answered or i + 1 < rounds:
            said.append(Message(role="assistant", content=draw(content)))
    return tuple(said)


def conversations(content=some, **options):
    return st.builds(Conversation, messages=dialogue(content, **options), source=source, meta=meta)


def prompts(content=some, **options):
    return st.builds(Prompt, messages=dialogue(content, answered=False, **options), id=text, source=source, meta=meta)


def pairs(content=some, *, asked=None, **options):
    """Rankings of two answers that are not the same, without a tie."""
    answer = st.builds(Completion, text=content)
    ranked = ranking(asked=asked if asked is not None else prompts(content, **options), answer=answer, most=2)
    return ranked.filter(
        lambda r: r.ranks[0] != r.ranks[1] and r.completions[0].text.strip() != r.completions[1].text.strip()
    )
