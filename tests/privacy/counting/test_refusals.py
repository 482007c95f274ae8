"""The list of leaks and refusals in the documents is true, and what else it promises is tested."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tactful_privacy.audit.planted import planted_bugs
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import ReleasedPane
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, Statistic

ROOT = Path(__file__).parents[3]
HOUR = 3_600_000
LEAKS = range(1, 11)
SECRET = b"a secret of tests only"
HOURS = Statistic("hours", ("bread", "milk"), HOUR, 5, Fraction(1, 2))


def sections() -> dict[str, str]:
    """The sections of the document, by their headings."""
    text = (ROOT / "docs/explanation/leaks.md").read_text("utf-8")
    _, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows(section: str) -> list[str]:
    """The lines of a table that are neither its head nor the line below."""
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def known_tests() -> set[str]:
    """Names of all test functions."""
    files = (ROOT / "tests").rglob("test_*.py")
    texts = (file.read_text("utf-8") for file in files)
    return {
        name for text in texts for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.M)
    }


def test_documents_name_a_test_for_each_leak_and_refusal() -> None:
    """Every leak and refusal has the tests that the document names."""
    leaks, refused, _ = sections().values()
    known = known_tests()
    for row in (*rows(leaks), *rows(refused)):
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= known, row
    numbered = [(row.split("|")[1].strip(), row) for row in rows(leaks)]
    assert [number for number, _ in numbered] == [str(n) for n in LEAKS]
    for number, row in numbered:
        assert all(it.startswith(f"test_leak_{number}_") for it in re.findall(r"`(test_\w+)`", row))
    of_leaks = {name for name in known if re.match(r"test_leak_\d", name)}
    assert of_leaks == set(re.findall(r"`(test_\w+)`", leaks)), "one is not in the document"


def test_the_threat_model_names_a_test_for_each_party_and_attack() -> None:
    text = (ROOT / "docs/explanation/security.md").read_text("utf-8")
    known = known_tests()
    tables = [section for section in re.split(r"^## ", text, flags=re.M) if "| Tests |" in section]
    assert len(tables) == 4
    for row in [row for table in tables for row in rows(table)]:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= known, row


def test_the_document_names_the_mistakes_that_the_audit_plants() -> None:
    *_, planted = sections().values()
    named = [re.findall(r"`(.+?)`", row) for row in rows(planted)]
    assert named == [[bug.name] for bug in planted_bugs(5, Fraction(1))]


def test_a_statistic_without_a_cap_is_none() -> None:
    with pytest.raises(TypeError, match="cap"):
        Statistic("hours", ("bread",), HOUR, epsilon=Fraction(1))  # type: ignore[call-arg]


class Loses(BoundedCounts):
    """Planted: a clock that goes back takes the counts back with it."""

    def closed(self, watermark: int) -> list[Any]:
        if watermark < self.open_from:
            self._state.open_from = watermark - watermark % HOUR
            self._state.spent.clear()
        return super().closed(watermark)


def drawn_around_midnight(
    counts: BoundedCounts, directory: Path
) -> tuple[list[ReleasedPane], dict[str, int]]:
    """Fill yesterday's cap and today's, set the clock back over midnight, and try again.

    Returns:
        What was published while the clock was back, and how often somebody was counted each day.
    """
    ledger = Ledger(directory / "ledger.db", daily_epsilon=1)
    publisher = Publisher(counts, ledger)
    counted = {"yesterday": 0, "today": 0}

    def try_all(watermark: int) -> None:
        for n in range(20):
            for day, at in (("yesterday", DAY_MS - 60_000), ("today", DAY_MS + 60_000)):
                taken = counts.add("somebody", at + n, "bread", watermark=watermark)
                counted[day] += taken

    try_all(0)
    publisher.publish(DAY_MS)
    again = []
    for clock in (DAY_MS - 1, DAY_MS - 2 * HOUR, 0):
        again += publisher.publish(clock)
        try_all(clock)
    ledger.close()
    return again, counted


def test_clock_back_over_midnight_gives_no_second_cap(tmp_path: Path) -> None:
    counts = BoundedCounts(HOURS, secret=SECRET, start=0)
    again, counted = drawn_around_midnight(counts, tmp_path)
    assert again == []
    assert counted == {"yesterday": 5, "today": 5}
    assert counts.open_from == DAY_MS


def test_planted_counts_that_follow_the_clock_back_are_caught(tmp_path: Path) -> None:
    counts = Loses(HOURS, secret=SECRET, start=0)
    _, counted = drawn_around_midnight(counts, tmp_path)
    assert counted["yesterday"] > 5
