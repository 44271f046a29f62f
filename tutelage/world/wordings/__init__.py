"""The world's sentences and word lists, one YAML file for each module that speaks them. This module only reads the files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML


@cache
def wordings(name: str) -> Any:
    """The content of ``wordings/NAME.yaml``: mappings and lists of texts, read once and never changed by callers."""
    return YAML(typ="safe", pure=True).load(Path(__file__).with_name(f"{name}.yaml"))
