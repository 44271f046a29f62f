"""Text to token ids and back: the tokenizer, and the one chat renderer. Imports no torch."""

from tutelage.text.chat import (
    CHAT_TEMPLATE,
    TRANSCRIPT_STOPS,
    Rendered,
    render,
    render_answers,
    render_batch,
    transcript,
)
from tutelage.text.imported import PLAIN_TEMPLATE
from tutelage.text.tokenizer import SPECIALS, Tokenizer

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
