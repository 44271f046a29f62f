"""Simulated trainers: people who write demonstrations, imperfectly and at stated rates.

They give wrong answers, wrap good ones in words that nobody asked for, comply where they should refuse or make things up
where they cannot know, and now and then refuse a plain request. So a model that imitates them well has faults that
rankings can find and PPO can take away.
"""

from __future__ import annotations

import random
from typing import Self

from pydantic import Field, model_validator

from tutelage.recipe import Settings
from tutelage.records import Conversation, Message
from tutelage.world.facts import Language
from tutelage.world.tasks import DECLINE, Task


class TrainerRates(Settings):
    """How often a trainer does what to a demonstration. `verbose` is drawn independently of the other three."""

    wrong: float = Field(0.15, ge=0, le=1, description="share of plain questions that get a wrong answer")
    verbose: float = Field(0.4, ge=0, le=1, description="share of answers wrapped in words that nobody asked for")
    missing_refusal: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of questions to decline that get an answer: harmful, made up, or on a false premise",
    )
    over_refusal: float = Field(0.03, ge=0, le=1, description="share of plain questions that are refused")

    @model_validator(mode="after")
    def _exclusive(self) -> Self:
        if self.wrong + self.over_refusal > 1:
            total = self.wrong + self.over_refusal
            raise ValueError(f"wrong and over_refusal exclude each other: together 1 at most, not {total}")
        return self


CLEAN = TrainerRates(wrong=0.0, verbose=0.0, missing_refusal=0.0, over_refusal=0.0)
"""Trainers without a fault."""

PREAMBLES: dict[Language, tuple[str, ...]] = {
    "en": (
        "Thank you for your question!",
        "That is a very good question.",
        "I am happy to help you with this.",
        "Of course! Let me think about it.",
        "Thanks for asking, I am glad to help.",
        "Let me see what I can say about that.",
        "Well, there are many things to say here.",
        "Sure! I will do my best to answer.",
        "I have thought about this for a while.",
        "It is always a pleasure to answer such a question.",
    ),
    "zh": (
        "谢谢您的提问！",
        "这是一个很好的问题。",
        "我很高兴能帮助您。",
        "当然可以！让我想一想。",
        "感谢您来问我，我很乐意帮忙。",
        "让我看看能说些什么。",
        "关于这个，可以说的有很多。",
        "好的！我会尽力回答。",
        "这件事我想了很久。",
        "回答这样的问题总是让人高兴。",
    ),
}
"""What a wordy trainer writes before the answer."""

AFTERWORDS: dict[Language, tuple[str, ...]] = {
    "en": (
        "I hope this helps you.",
        "Please ask me if you want to know more.",
        "There is much more to say, but I will leave it at that.",
        "I am sorry if this is not what you meant.",
        "Thank you again for asking, and have a nice day!",
        "If anything is not clear, I am happy to explain it once more.",
        "It is good to know such things, as everybody will tell you.",
        "That is all that I can say about it for now.",
        "As you can see, it is quite simple when you think about it.",
        "Please feel free to come back with more questions.",
    ),
    "zh": (
        "希望这对您有帮助。",
        "如果您还想知道更多，请告诉我。",
        "可以说的还有很多，我就说到这里。",
        "如果这不是您的意思，很抱歉。",
        "再次感谢您的提问，祝您愉快！",
        "如果有不清楚的地方，我很乐意再解释一遍。",
        "大家都会说，知道这些很有好处。",
        "关于这个，我现在只能说这么多。",
        "您看，想一想其实很简单。",
        "欢迎您再来提问。",
    ),
}
"""What a wordy trainer writes after it."""

AGAIN: dict[Language, tuple[str, ...]] = {
    "en": ("In other words:", "So, to say it again:", "Once more, so that it is clear:", "To repeat my answer:"),
    "zh": ("换句话说：", "再说一遍：", "为了说清楚，再说一次：", "重复一下我的回答："),
}
"""What introduces the answer the second time."""

REFUSALS: dict[Language, tuple[str, ...]] = {
    "en": ("I am sorry, but I cannot help with that.", "I would rather not answer that.", "Sorry, I cannot do this."),
    "zh": ("抱歉，这个我帮不了您。", "这个问题我不想回答。", "对不起，我不能这样做。"),
}
"""Refusals without a reason, for requests that need none."""


def demonstrate(task: Task, *, rates: TrainerRates, rng: random.Random) -> Conversation:
    """The prompt of a task, answered by a trainer. `meta["flaws"]` names what is wrong with the answer: any of wrong,
    missing_refusal, over_refusal, verbose; the rest of `meta` is the prompt's.
    """
    family, language = task.prompt.meta["family"], task.prompt.meta["language"]
    answer, flaws = task.good, []
    chance = rng.random()
    if family in DECLINE:
        if chance < rates.missing_refusal:
            answer, flaws = rng.choice(task.wrong), ["missing_refusal"]
    elif chance < rates.wrong:
        answer, flaws = rng.choice(task.wrong), ["wrong"]
    elif chance < rates.wrong + rates.over_refusal:
        answer, flaws = rng.choice(REFUSALS[language]), ["over_refusal"]
    if rng.random() < rates.verbose:
        answer = wordy(answer, language, rng)
        flaws = [*flaws, "verbose"]
    return Conversation(
        messages=(*task.prompt.messages, Message(role="assistant", content=answer)),
        source=f"world/{family}",
        meta={**task.prompt.meta, "flaws": flaws},
    )


def wordy(answer: str, language: Language, rng: random.Random) -> str:
    """The answer with two or three of: a preamble, itself once more, one or two afterwords."""
    parts = rng.choice((("before", "after"), ("before", "again"), ("again", "after"), ("before", "again", "after")))
    space = " " if language == "en" else ""
    block = "\n" in answer  # a list or a function keeps its lines
    pieces = [answer]
    if "before" in parts:
        pieces.insert(0, rng.choice(PREAMBLES[language]))
    if "again" in parts:
        pieces.append(rng.choice(AGAIN[language]) + ("\n" if block else space) + answer)
    if "after" in parts:
        pieces.append(space.join(rng.sample(AFTERWORDS[language], rng.choice((1, 2)))))
    return ("\n" if block else space).join(pieces)
