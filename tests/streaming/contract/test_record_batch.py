"""Runs of records read as the pairs they stand for."""

import pytest

from tactful_streaming.contract.record_batch import Records, from_offset, payloads_of

PAIRS = [(7, b"a"), (8, b"b"), (11, b"c")]
RUN = Records([7, 8, 11], [b"a", b"b", b"c"])


def test_a_run_reads_as_its_pairs() -> None:
    assert [*RUN] == PAIRS
    assert [RUN[number] for number in range(len(RUN))] == PAIRS
    assert RUN[-1] == PAIRS[-1]
    assert RUN[1:] == PAIRS[1:]
    assert PAIRS[0] in RUN
    assert RUN == PAIRS
    assert PAIRS[:2] != RUN
    assert RUN != [(7, b"a"), (8, b"b"), (12, b"c")]
    with pytest.raises(IndexError):
        RUN[3]


def test_payloads_are_those_of_the_pairs() -> None:
    assert [*payloads_of(RUN)] == [*payloads_of(PAIRS)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("offset", range(6, 13))
def test_what_was_applied_is_left_out(offset: int) -> None:
    expected = [pair for pair in PAIRS if pair[0] >= offset]
    assert [*from_offset(RUN, offset)] == [*from_offset(PAIRS, offset)] == expected
    assert [*from_offset([], offset)] == []
