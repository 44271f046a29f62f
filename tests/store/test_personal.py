from __future__ import annotations

import random
import time
from datetime import date

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.records import Citation, Completion, Evidence, Message, Prompt, ToolCall
from tutelage.store.personal import FINDERS, scrub, scrub_record

REMOVED = [
    ("Write to jane.doe+tag@mail.example.co.uk, please.", "Write to [EMAIL], please."),
    ("我的邮箱是foo_1@bar.com。谢谢", "我的邮箱是[EMAIL]。谢谢"),
    ("<a@b.io>;c@d.org", "<[EMAIL]>;[EMAIL]"),
    ("git clone https://joe:s3cret@git.example.com/x.git", "git clone https://[CREDENTIALS]@git.example.com/x.git"),
    ("postgresql://admin:pw@10.2.3.4:5432/db", "postgresql://[CREDENTIALS]@[IP]:5432/db"),
    ("Call +1 (415) 555-2671 today", "Call [PHONE] today"),
    ("Call me: 4155552671", "Call me: [PHONE]"),
    ("(212) 736-5000 or 212-736-5000", "[PHONE] or [PHONE]"),
    ("Ring +49 30 901820 or +44 20 7946 0958.", "Ring [PHONE] or [PHONE]."),
    ("我的手机号是13812345678，晚上打", "我的手机号是[PHONE]，晚上打"),
    ("联系我 138 1234 5678", "联系我 [PHONE]"),
    ("13912345678", "[PHONE]"),
    ("电话：010-62751234转8", "电话：[PHONE]转8"),
    ("+86 138 1234 5678", "[PHONE]"),
    ("Card 4111 1111 1111 1111, exp 12/29", "Card [CARD], exp 12/29"),
    ("卡号5500-0000-0000-0004", "卡号[CARD]"),
    ("amex 378282246310005", "amex [CARD]"),
    ("银联6222021234567890120。", None),
    ("身份证11010519491231002X，", "身份证[IDENTITY]，"),
    ("ID 440524188001010014 (born 1880)", "ID 440524188001010014 (born 1880)"),
    ("IBAN GB82 WEST 1234 5698 7654 32 please", "IBAN [IBAN] please"),
    ("IBAN DE89370400440532013000.", "IBAN [IBAN]."),
    ("FR14 2004 1010 0505 0001 3M02 606 AND MORE", "[IBAN] AND MORE"),
    ("My SSN is 078-05-1120.", "My SSN is [SSN]."),
    ("ssh root@192.168.7.20", "ssh root@[IP]"),
    ("服务器8.8.4.4宕机", "服务器[IP]宕机"),
    ("from 2001:db8::ff00:42:8329 to fe80::1", "from [IP] to [IP]"),
]
KEPT = [
    "version 1.2.3.4 and v10.0.0.1, release 2.0.1.7",
    "版本号：1.2.3.4，见第1.2.3.4节",
    "127.0.0.1 and 0.0.0.0 and ::1 and std::vector<int>",
    "999.1.1.1 and 1.2.3.4.5",
    "12:34:56 on 2024-10-01, 10:00-11:30",
    "ISBN 978-0-306-40615-7, ISBN-10 0306406152, ISBN 9780306406157",
    "order 4155552671 and order no. 13812345678",
    "订单号13812345678，编号：13912345678",
    "1234567890123456 fails the checksum",
    "1 + 4155552671 = 4155552672",
    "3.14159265358979323846",
    "the years 1914-1918, 1939 1945",
    "10,000,000,000 stars and 299792458 m/s",
    "20212345678 is no phone",
    "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",
    "110105194912310021",
    "GB82 WEST 1234 5698 7654 33",
    "me @home, a@b, @user, x@y.1",
    "https://example.com:8080/a@b and http://user@host/",
    "UUID 123e4567-e89b-12d3-a456-426614174000",
    "sha 4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "Python 3.11.7, numpy==2.4.6",
    "a matrix: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "the 100 200 300 400 rule",
    "1234567 x 7654321",
]


@pytest.mark.parametrize(
    ("given_text", "expected"), [row for row in REMOVED if row[1]], ids=[r[0][:20] for r in REMOVED if r[1]]
)
def test_removed(given_text: str, expected: str) -> None:
    text, counts = scrub(given_text)
    assert text == expected
    assert counts.total() == sum(expected.count(f"[{kind}]") for kind in FINDERS)


@pytest.mark.parametrize("text", KEPT)
def test_kept(text: str) -> None:
    assert scrub(text) == (text, {})


def luhn(digits: str) -> str:
    """The check digit, by the table of doubled digits (another way than the module's)."""
    doubled = {"0": 0, "1": 2, "2": 4, "3": 6, "4": 8, "5": 1, "6": 3, "7": 5, "8": 7, "9": 9}
    total = sum(doubled[d] if i % 2 == 0 else int(d) for i, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


BEFORE = st.sampled_from(["", "so ", "我说", "then, ", "（", "\n"])
AFTER = st.sampled_from(["", " so", "说", ", then", "）", "\n"])


@given(st.text("0123456789", min_size=14, max_size=14), BEFORE, AFTER)
def test_every_valid_card_goes_and_with_one_digit_changed_stays(digits: str, before: str, after: str) -> None:
    card = luhn("4" + digits)
    assert scrub(f"{before}{card}{after}")[0].strip() == f"{before}[CARD]{after}".strip()
    wrong = card[:-1] + str((int(card[-1]) + 1) % 10)
    assert "[CARD]" not in scrub(wrong)[0]


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)), st.integers(0, 999), BEFORE, AFTER)
def test_every_chinese_identity_number_goes(born: date, serial: int, before: str, after: str) -> None:
    digits = f"110105{born:%Y%m%d}{serial:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # as GB 11643 prints them
    number = digits + "10X98765432"[sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11]
    assert scrub(f"{before}{number}{after}")[0] == f"{before}[IDENTITY]{after}"


@pytest.mark.parametrize("region", ["US", "GB", "CN", "DE", "FR", "JP", "IN", "BR"])
def test_phone_numbers_in_international_form_go(region: str) -> None:
    number = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    said = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    assert scrub(f"Here: {said}, thanks")[0] == "Here: [PHONE], thanks"


@given(st.text(st.sampled_from("0123456789 -.:@abGBX/+()电话版本,"), max_size=60))
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    once = scrub(text)[0]
    assert scrub(once) == (once, {})


def test_the_time_does_not_explode() -> None:
    """Hostile texts take time in proportion to their length, give or take."""
    for piece in ("1 ", "a.", "1:", "12-", "GB82 ", "a:", "(415) 555-", "x@y."):
        short, long = (min(_seconds(piece * n) for _ in range(3)) for n in (500, 4000))
        assert long < 40 * short + 0.05, piece


def _seconds(text: str) -> float:
    start = time.process_time()
    scrub(text)
    return time.process_time() - start


def test_a_record_is_scrubbed_everywhere_and_keeps_its_citations_only_if_unchanged() -> None:
    evidence = (Evidence(id="e1", text="by a@b.org", source="https://x.org"),)
    cited = {"evidence": evidence, "citations": (Citation(start=0, end=2, evidence="e1"),)}
    calls = (ToolCall(name="mail", arguments={"to": ["a@b.org"]}, id="1"),)
    messages = (
        Message(role="user", content="I am a@b.org"),
        Message(role="assistant", content="ok", reasoning="a@b.org", tool_calls=calls, **cited),
        Message(role="assistant", content="mail a@b.org", **cited),
        Message(role="user", content="ok"),
    )
    cleaned, counts = scrub_record(Prompt(messages=messages))
    assert counts == {"EMAIL": 6}
    assert "a@b.org" not in cleaned.model_dump_json()
    assert [len(message.citations) for message in cleaned.messages] == [0, 1, 0, 0]
    made = Completion(text="a@b.org", model="13812345678", sampling={"top_k": 40})
    assert scrub_record(made)[0] == made.model_copy(update={"text": "[EMAIL]"})


def test_ordinary_numbers_of_random_prose_stay() -> None:
    drawn = random.Random(0)
    for _ in range(300):
        number = f"{drawn.randrange(10 ** drawn.randrange(1, 7)):,}"
        assert scrub(f"It cost {number} in {drawn.randrange(1000, 2100)}.")[1] == {}
