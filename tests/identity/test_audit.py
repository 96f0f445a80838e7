"""The parts of the audit: a feed is split and read piece by piece, rules are found and written."""

from __future__ import annotations

import io
import tracemalloc
from itertools import islice, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.audit.files import Unread, messages_in, read_message
from services.identity.audit.formats import mask, pattern
from services.identity.audit.ledger import Ledger
from services.identity.audit.rules import shortening, solve
from services.identity.normalise import check_digit
from tests.identity.feeds import order, people

LIMIT = 1 << 20
PEOPLE = people(10)


class Endless(io.RawIOBase):
    """A feed that is made while it is read."""

    def __init__(self, message: bytes, count: int) -> None:
        self._messages = repeat(message, count)

    def read(self, size: int = -1) -> bytes:
        return b"".join(islice(self._messages, 50))


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n\r\n"])
@given(cut=st.integers(1, 700))
def test_messages_are_split_wherever_a_piece_ends(end: bytes, cut: int) -> None:
    messages = [order(person, at).rstrip(b"\r") for at, person in enumerate(PEOPLE)]
    whole = end.join(messages)

    class Pieces(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(cut)

    assert list(messages_in(Pieces(whole), LIMIT)) == messages


def test_a_hundred_thousand_messages_need_no_more_memory_than_a_hundred() -> None:
    def peak(count: int) -> int:
        ledger = Ledger()
        tracemalloc.start()
        for number, raw in enumerate(messages_in(Endless(order(PEOPLE[0], 1), count), LIMIT)):
            if number % 100 == 0:  # reading each would take a minute and keep the same
                for one in read_message(raw, "feed", limit=LIMIT):
                    assert not isinstance(one, Unread)
                    ledger.add(one)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert number + 1 == count
        return used

    small = peak(100)
    assert peak(100_000) < small + (1 << 20)


def test_a_message_that_is_too_long_is_cut_and_told() -> None:
    long = order(PEOPLE[0], 1) + b"NTE|1||" + b"x" * 3 * LIMIT
    found = list(
        messages_in(io.BytesIO(order(PEOPLE[1], 2) + long + b"\r" + order(PEOPLE[2], 3)), LIMIT)
    )
    assert [len(m) > LIMIT for m in found] == [False, True, False]
    (told,) = read_message(found[1], "feed#2", limit=LIMIT)
    assert isinstance(told, Unread)
    assert told.broken


@pytest.mark.parametrize(
    ("number", "written", "masked"),
    [
        ("00123456", "9{8}", "00••••56"),
        ("A1234567", "A9{7}", "••••••67"),
        ("ab-12/34", "a{2}-9{2}/9{2}", "••-••/34"),
        ("1234", "9{4}", "••••"),
        ("0000", "9{4}", "0000"),
    ],
)
def test_a_number_is_told_by_its_shape(number: str, written: str, masked: str) -> None:
    assert (pattern(number), mask(number)) == (written, masked)


@pytest.mark.parametrize(
    ("sent", "wanted", "steps"),
    [
        ("0012345", "12345", {"strip_zeros": True}),
        ("12345", "0012345", {"pad_to": 7}),
        ("ab-123", "AB123", {"remove": "-", "upper": True}),
        ("H1-0012345", "12345", {"remove_prefix": "H1-", "strip_zeros": True}),
        ("12345", "N12345", {"prefix": "N"}),
        ("12345", "54321", None),
    ],
)
def test_the_fewest_steps_are_found(sent: str, wanted: str, steps: dict[str, object]) -> None:
    assert solve(sent, wanted) == steps


def test_a_check_digit_is_dropped_only_where_it_is_one() -> None:
    right = "1234" + check_digit("1234", "M10")
    assert solve(right, "1234") == {"drop_check_digit": True}
    wrong = "1234" + str((int(right[-1]) + 3) % 10)
    assert solve(wrong, "1234") is None


def test_what_would_make_one_of_two_accession_numbers_is_no_rule() -> None:
    assert shortening(["0" * 12 + "12345"], 16) is not None
    assert shortening(["0" * 12 + "12345", "0" * 13 + "12345"], 16) is None
