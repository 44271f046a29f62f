"""Finds what identifies a person in English and Chinese text, and puts a placeholder such as ``[EMAIL]`` in its place.

Found by form and, where the form has one, by checksum: e-mail addresses, telephone numbers, payment cards (Luhn), Chinese identity
numbers (GB 11643), IBANs (ISO 7064), US social security numbers, addresses of the net, and credentials in URLs. Not found: names,
streets, and whatever else has no form. Numbers without separators are ambiguous: the words before them decide.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from typing import Any, TypeVar

from phonenumbers import Leniency, PhoneNumberMatcher

from tutelage.records import Completion, Conversation, Message, Prompt

Span = tuple[int, int]
R = TypeVar("R", Message, Completion, Prompt, Conversation)

# \w would join Chinese to the address that follows it without a space
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@:?#]+:[^\s/@?#]+(?=@)")
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9-])"
)
_EDGE = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
_IBAN = re.compile(rf"{_EDGE[0]}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]){{11,30}}{_EDGE[1]}")
_IDENTITY = re.compile(rf"{_EDGE[0]}\d{{17}}[\dXx]{_EDGE[1]}")
_CARD = re.compile(r"(?<![A-Za-z0-9_.-])\d(?:[ -]?\d){12,18}(?![A-Za-z0-9_]|[.-]\d)")
_CARD_ISSUERS = re.compile(r"4(?:\d{12}|\d{15}|\d{18})|(?:5[0-8]|2[2-7]|35)\d{14}|3[47]\d{13}|3[0689]\d{12}|6\d{15,18}")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])", re.ASCII)
_IPV4 = re.compile(r"(?<![A-Za-z0-9_.])\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z0-9_]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*\d)[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)

_VERSION_BEFORE = re.compile(
    r"(?:\b(?:version|release|section|chapter|build|ver|v)\.?|版本号?|章节?|第|§)[\s:：是为]*$", re.IGNORECASE
)
_NUMBER_BEFORE = re.compile(
    r"(?:\b(?:order|invoice|tracking|ticket|serial|account|article|item|part|case|id|isbn(?:-1[03])?|issn|doi|ean)"
    r"(?:\s+(?:number|no|id|code))?|订单号?|编号|单号|流水号|序列号|书号|货号)[\s.:：#№是为]*$",
    re.IGNORECASE,
)
_PHONE_BEFORE = re.compile(
    r"(?:\b(?:tel|telephone|phone|mobile|cell|call|text|fax|whatsapp|ring|dial|reach\s+(?:me|us)|number\s+is)|电话|手机|号码|联系|致电|拨打|传真|微信)"
    r"[^\d\n]{0,16}$",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"(?:\d[^\d\n]{0,3}){7}")
"""Looked for before the search for telephone numbers, which takes 100 times as long."""
_CHINESE_MOBILE = re.compile(r"1[3-9]\d{9}")
_REGIONS = ("US", "GB", "CN")
"""Whose national numbers are known; others count with their country code (+49 ...)."""
_WORDS_BEFORE = 32


def _credentials(text: str) -> Iterator[Span]:
    yield from (found.span() for found in _CREDENTIALS.finditer(text))


def _email(text: str) -> Iterator[Span]:
    yield from (found.span() for found in _EMAIL.finditer(text))


def _iban(text: str) -> Iterator[Span]:
    """The letters after the number may be the next word's, so its end is where the checksum is right."""
    for found in _IBAN.finditer(text):
        end = found.end()
        while end - found.start() >= 15:
            compact = text[found.start() : end].replace(" ", "")
            if 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1:
                yield found.start(), end
                break
            end = max(text.rfind(" ", found.start(), end), 0)


def _identity(text: str) -> Iterator[Span]:
    for found in _IDENTITY.finditer(text):
        digits, check = found[0][:17], found[0][17].upper()
        weighted = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(digits))
        with suppress(ValueError):
            born = date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
            if 1900 <= born.year <= 2099 and "10X98765432"[weighted % 11] == check:
                yield found.span()


def _card(text: str) -> Iterator[Span]:
    for found in _CARD.finditer(text):
        digits = [int(digit) for digit in found[0] if digit.isdigit()]
        doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
        if _CARD_ISSUERS.fullmatch("".join(map(str, digits))) and (sum(digits[::-2]) + doubled) % 10 == 0:
            yield found.span()


def _ssn(text: str) -> Iterator[Span]:
    yield from (found.span() for found in _SSN.finditer(text))


def _phone(text: str) -> Iterator[Span]:
    if not _DIGITS.search(text):
        return
    for region in _REGIONS:
        for found in PhoneNumberMatcher(text, region, leniency=Leniency.VALID, max_tries=1000):
            start, end = found.start, found.end
            before, number = text[max(0, start - _WORDS_BEFORE) : start], text[start:end]
            if re.search(r"[A-Za-z0-9_]$|\d[.,]$", before) or re.match(r"[A-Za-z0-9_]|[.,]\d", text[end:]):
                continue
            bare = re.fullmatch(r"\d+|[1-9]\d*[ -]\d+", number)
            mobile = region == "CN" and _CHINESE_MOBILE.fullmatch(number.replace(" ", "").replace("-", ""))
            if _NUMBER_BEFORE.search(before) or (bare and not mobile and not _PHONE_BEFORE.search(before)):
                continue
            if not re.search(r"[=*/]\s*$", before) and not re.match(r"\s*[=*/]", text[end:]):  # a sum is not called
                yield start, end


def _ip(text: str) -> Iterator[Span]:
    for pattern in (_IPV4, _IPV6):
        for found in pattern.finditer(text):
            with suppress(ValueError):
                address = ipaddress.ip_address(found[0])
                before = text[max(0, found.start() - _WORDS_BEFORE) : found.start()]
                if not (address.is_loopback or address.is_unspecified or _VERSION_BEFORE.search(before)):
                    yield found.span()


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "CREDENTIALS": _credentials,
    "EMAIL": _email,
    "IBAN": _iban,
    "IDENTITY": _identity,
    "CARD": _card,
    "SSN": _ssn,
    "IP": _ip,
    "PHONE": _phone,
}
"""Placeholder -> what it stands for. In this order: a later one would find parts of an earlier one."""


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with placeholders, and how many of each. A text that was scrubbed comes back as it is."""
    counts: Counter[str] = Counter()
    while True:
        before = text
        for kind, find in FINDERS.items():
            rest = len(text)
            for start, end in sorted(set(find(text)), reverse=True):
                if end <= rest:
                    text, rest = f"{text[:start]}[{kind}]{text[end:]}", start
                    counts[kind] += 1
        if text == before:
            return text, counts


_AS_IT_IS = {"role", "type", "id", "tool_call_id", "model", "sampling", "seed", "learn", "finished", "citations"}
"""Fields that hold no words of people."""


def scrub_values(value: Any, counts: Counter[str]) -> Any:
    """A JSON value with all its strings scrubbed but those of fields that hold none of people's words; adds to ``counts``."""
    if isinstance(value, str):
        text, found = scrub(value)
        counts.update(found)
        return text
    if isinstance(value, dict):
        return {k: inner if k in _AS_IT_IS else scrub_values(inner, counts) for k, inner in value.items()}
    return [scrub_values(inner, counts) for inner in value] if isinstance(value, list | tuple) else value


def scrub_record(record: R) -> tuple[R, Counter[str]]:
    """A record without personal data. Citations are left out of messages that changed: they count characters."""
    counts: Counter[str] = Counter()
    values = record.model_dump(mode="json", exclude_defaults=True)
    cleaned = _with_valid_citations(values, scrub_values(values, counts))
    return type(record).model_validate(cleaned), counts


def _with_valid_citations(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    if "messages" in after:
        pairs = zip(before["messages"], after["messages"], strict=True)
        return after | {"messages": [_with_valid_citations(*pair) for pair in pairs]}
    words = "content" if "content" in after else "text"
    return after if before[words] == after[words] else {k: v for k, v in after.items() if k != "citations"}
