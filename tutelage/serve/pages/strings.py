"""The string catalogue: what people read on the pages, in English and Chinese."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ruamel.yaml import YAML

LANGUAGES = ("en", "zh")


@lru_cache(maxsize=1)
def catalogue() -> dict[str, dict[str, str]]:
    """Key -> language -> text."""
    return YAML(typ="safe").load(Path(__file__).with_name("strings.yaml").read_text(encoding="utf-8"))


def strings(language: str) -> dict[str, str]:
    """Key -> text in one language."""
    return {key: texts[language] for key, texts in catalogue().items()}


def choose_language(setting: str | None, accept: str) -> str:
    """The user's setting, else the language that an Accept-Language header likes most, else English."""
    if setting in LANGUAGES:
        return setting
    liked: list[tuple[float, str]] = []
    for part in accept.split(",")[:20]:
        tag, _, rest = part.strip().partition(";")
        language = tag.split("-")[0].lower()
        try:
            weight = float(rest.strip().removeprefix("q=")) if rest else 1.0
        except ValueError:
            weight = 0.0
        if language in LANGUAGES and weight > 0:
            liked.append((weight, language))
    return max(liked, key=lambda pair: pair[0])[1] if liked else "en"
