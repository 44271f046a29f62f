"""The catalogue of strings: complete in both languages, and all that the Chinese page says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import fake_run
import pytest

from tutelage.evaluate.report import words
from tutelage.evaluate.report.page import main
from tutelage.evaluate.report.words import LANGUAGES, Words, catalogue
from tutelage.world.tasks import FAMILIES

PACKAGE = Path(words.__file__).parent
LATIN = {
    "KL",
    "SFT",
    "PPO",
    "ptx",
    "tutelage",
    "nat",
    "GiB",
    "M",
    "English",
    "results",
    "json",
    "samples",
    "jsonl",
    "cpu",
}
"""Names, units and files that are Latin in Chinese too."""


@pytest.mark.parametrize("key", catalogue())
def test_every_string_is_there_in_both_languages_with_the_same_values(key: str) -> None:
    entry = catalogue()[key]
    assert set(entry) == set(LANGUAGES)
    fields = [{name for _, name, _, _ in Formatter().parse(entry[language]) if name} for language in LANGUAGES]
    assert fields[0] == fields[1]
    assert all(entry.values())
    assert not re.search(r"[\u4e00-\u9fff]", entry["en"]) or key == "language"


def test_chinese_and_latin_are_set_apart_and_punctuation_is_chinese() -> None:
    for key, entry in catalogue().items():
        text = re.sub(r"\{\w+(:[^}]*)?\}", "X", entry["zh"].replace("{judge}", "评"))
        assert not re.search(r"[\u4e00-\u9fff][A-Za-z0-9√]|[A-Za-z0-9%][\u4e00-\u9fff]", text), f"{key}: {text}"
        assert not re.search(r"[\u4e00-\u9fff] ?[,;:!?()]", text.replace("时:分:秒", "")), f"{key}: {text}"


def test_no_key_is_unknown_and_none_is_unused() -> None:
    files = [*PACKAGE.glob("*.py"), *PACKAGE.glob("templates/*.html")]
    text = "\n".join(path.read_text() for path in files)
    literal = set(re.findall(r'(?:say|self|other)\(\s*f?"([a-z_.]+)"', text))
    assert {key for key in literal if not key.endswith(".")} <= set(catalogue())
    # These are completed by names in the data.
    prefixes = ("column.", "curve.", "over.", "family.", "language.", "role.", "who.", "pref.margin.")
    unused = [key for key in catalogue() if f'"{key}"' not in text and not key.startswith(prefixes)]
    assert not unused


def test_the_worlds_families_have_a_name() -> None:
    assert {f"family.{name}" for name in FAMILIES} <= set(catalogue())


def test_a_space_beside_a_filled_in_name_is_for_latin_names() -> None:
    say = Words("zh")
    assert say("column.win_rate", other="SFT") == "对 SFT 的胜率"
    assert say("column.win_rate", other="基座模型") == "对基座模型的胜率"
    assert Words().name_of("family", "my_own") == "my own"


class Texts(HTMLParser):
    """What a reader sees or hears of a page, without answers, identifiers and recipes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.hidden: list[str] = []
        self.open: list[bool] = []
        self.found: list[str] = []
        self.links: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.found += [value for name, value in attrs if value and name in ("aria-label", "data-title")]
        if tag == "a":
            self.links.append(attributes.get("href"))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag in ("style", "pre", "code") or attributes.get("class") == "text")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not any(self.open):
            self.found.append(data)


@pytest.mark.parametrize("judge", [True, False])
def test_the_chinese_page_has_no_english_text(tmp_path: Path, judge: bool) -> None:
    settings, inputs = fake_run.write_all(tmp_path, judge=judge)
    again = inputs.model_copy(update={"seeds": {"1": inputs.results}})
    out = main(settings, again, tmp_path / "out")
    english, page = (Texts((out / name).read_text()) for name in ("report.html", "report.zh.html"))
    seen = re.sub(r"python.function", "", " ".join(page.found))  # a family that only the made-up run has
    found = set(re.findall(r"[A-Za-z]{2,}", seen)) | set(re.findall(r"\b[A-Z]\b", seen))
    assert found <= LATIN | {"gzip", "xz"}
    assert (english.links[0], page.links[0]) == ("report.zh.html", "report.html")
    assert len(english.links) == len(page.links)
    assert "演示" in page.found
    assert "基座模型按纯文本提问。" in page.found
    assert {f"{p.stem}.zh" for p in (out / "plots").glob("*.svg") if ".zh" not in p.name} == {
        p.stem for p in (out / "plots").glob("*.zh.svg")
    }
