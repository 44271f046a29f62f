"""What a right answer is: one function per kind of check, from a case to a verdict."""

from __future__ import annotations

from collections.abc import Callable

from tutelage.world.checks import facts, limits, lists, python, writing
from tutelage.world.checks.common import Case, Verdict

CHECKS: dict[str, Callable[[Case], Verdict]] = {
    "fact": facts.check_fact,
    "premise": facts.check_premise,
    "correction": facts.check_correction,
    "sum": lists.check_sum,
    "sequence": lists.check_sequence,
    "items": lists.check_items,
    "brainstorm": lists.check_brainstorm,
    "summary": writing.check_summary,
    "format": writing.check_format,
    "translation": writing.check_translation,
    "grammar": writing.check_grammar,
    "label": writing.check_label,
    "greeting": writing.check_greeting,
    "story": writing.check_story,
    "python": python.check_python,
    "refuse": limits.check_refuse,
    "advice": limits.check_advice,
    "unknowable": limits.check_unknowable,
}
"""By `check["kind"]`."""
