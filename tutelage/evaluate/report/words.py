"""Every string that a report shows, once in each language: templates/words.yaml.

say = Words("zh")
say("models.title")                     各模型的结果
say("prompts", n=600)                   600 个留出提示
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tutelage.settings import read_yaml

Language = Literal["en", "zh"]
_SPACE_IN_CHINESE = r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]) (?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])"
"""A space beside a placeholder is for Latin names and numbers; where a Chinese name is filled in, it goes."""
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@cache
def catalogue() -> Mapping[str, Mapping[Language, str]]:
    """Key -> language -> string, with ``{placeholders}`` of ``str.format``."""
    return read_yaml(Path(__file__).parent / "templates/words.yaml")


@dataclass(frozen=True)
class Words:
    """The strings of one language."""

    language: Language = "en"

    def __call__(self, key: str, **values: Any) -> str:
        """The string of this key, filled in. Raises KeyError for an unknown key or a missing value."""
        text = catalogue()[key][self.language].format(**values)
        return re.sub(_SPACE_IN_CHINESE, "", text) if self.language == "zh" else text

    def name_of(self, kind: str, name: str) -> str:
        """What a task family, a language or a role is called; a name that is not in the catalogue, without underscores."""
        key = f"{kind}.{name}"
        return self(key) if key in catalogue() else name.replace("_", " ")

    def file(self, name: str) -> str:
        """The name of a file in this language: report.html in English, report.zh.html in Chinese."""
        stem, _, suffix = name.rpartition(".")
        return name if self.language == "en" else f"{stem}.{self.language}.{suffix}"
