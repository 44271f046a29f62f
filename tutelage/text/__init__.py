"""Text to token ids and back: the tokenizer, and the one chat renderer. Imports no torch."""

from tutelage.text.chat import TRANSCRIPT_STOPS, render, render_answers, render_batch, transcript
from tutelage.text.layout import CHAT_TEMPLATE, PLAIN_TEMPLATE, SPECIALS, Rendered
from tutelage.text.tokenizer import Tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "PLAIN_TEMPLATE",
    "SPECIALS",
    "TRANSCRIPT_STOPS",
    "Rendered",
    "Tokenizer",
    "render",
    "render_answers",
    "render_batch",
    "transcript",
]
