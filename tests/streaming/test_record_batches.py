"""Record batches are read as Kafka's documentation lays them out, and never where they lie."""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.streaming.batch_encoder import PACKINGS, Entry, batch_of, checksum, sized, varint

from tactful_streaming.record_batches import UnsoundError, read_batches, take_records

LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 8, 16, 32
ABORT, COMMIT = 0, 1
CHECKED_FROM: Final = 21


def marked(kind: int, **more: int) -> bytes:
    """The end of a transaction."""
    record = Entry(0, struct.pack(">hi", 0, 9), struct.pack(">hh", 0, kind))
    return batch_of(record.encode(), 1, kind=TRANSACTIONAL | CONTROL, **more)


def read(sent: bytes, count: int = 1000) -> list[tuple[int, bytes]]:
    batches, _ = read_batches(memoryview(sent), [], 0)
    records, _ = take_records(deque(batches), count, 0)
    return [] if records is None else [*records]


@dataclass
class Transaction:
    """One of a producer, from its first batch on."""

    producer: int
    first: int
    batches: list[tuple[list[tuple[int, bytes]], int]] = field(default_factory=list)


@dataclass
class KeptLog:
    """A partition as a broker keeps it.

    Attributes:
        batches: first and last offset, and bytes.
        committed: offset, payload and batch's time of what a reader must see.
        aborted: producer, first and last offset of transactions that were given up.
    """

    end: int
    batches: list[tuple[int, int, bytes]] = field(default_factory=list)
    committed: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    aborted: list[tuple[int, int, int]] = field(default_factory=list)

    def append(self, last: int, batch: bytes) -> None:
        self.batches.append((self.end, self.end + last, batch))
        self.end += last + 1

    def answer(self, position: int) -> tuple[bytes, list[tuple[int, int]]]:
        """What a broker sends to who asks for an offset: batches are sent whole."""
        sent = b"".join(batch for _, last, batch in self.batches if last >= position)
        return sent, [(it, first) for it, first, last in self.aborted if last >= position]


values = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.sampled_from([b"", b"\n", b"\0", b"a line\nand another\n", b"\0\n\0"]),
    st.builds(lambda part, size: (part * size)[:size], st.binary(min_size=1), st.integers(0, 5000)),
)
short = st.none() | st.binary(max_size=5)
numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    gapless = draw(st.booleans())
    out: list[Entry] = []
    after = -1
    for value in draw(st.lists(values, max_size=4)):
        after += 1 if gapless else draw(st.sampled_from([1, 1, 2, 70, 20_000]))
        headers = draw(st.lists(st.tuples(st.binary(max_size=3), short), max_size=2))
        out.append(Entry(after, value, draw(short), headers, draw(numbers)))
    return out


@st.composite
def kept_logs(draw: st.DrawFn) -> KeptLog:
    log = KeptLog(draw(st.sampled_from([0, 3, 2**31, 2**40])))
    running: dict[int, Transaction] = {}

    def finish(producer: int) -> None:
        transaction = running.pop(producer, None)
        ending = draw(st.sampled_from([ABORT, COMMIT]))
        records = [it for it, _ in transaction.batches] if transaction is not None else []
        if transaction is not None and ending == COMMIT:
            for found, newest in transaction.batches:
                log.committed.update((at, (payload, newest)) for at, payload in found)
        if any(records) and ending == ABORT:
            assert transaction is not None
            log.aborted.append((producer, transaction.first, log.end))
        elif draw(st.booleans()):  # its mark went with what it ended
            kind = TRANSACTIONAL | CONTROL
            log.append(0, batch_of(b"", 0, base=log.end, last=0, kind=kind, producer=producer))
            return
        log.append(0, marked(ending, base=log.end, producer=producer))

    for _ in range(draw(st.integers(0, 14))):
        log.end += draw(st.sampled_from([0, 0, 0, 1, 300]))
        producer = draw(st.sampled_from([4, 2**40]))
        turn = draw(st.sampled_from(["alone", "within", "within", "end", "end"]))
        if turn == "end":
            finish(producer)
            continue
        found = draw(entries())
        last = max((it.after for it in found), default=0) + draw(st.sampled_from([0, 0, 1, 9]))
        code, pack = PACKINGS[draw(st.sampled_from([*PACKINGS]))]
        kind = code | draw(st.sampled_from([0, LOG_APPEND_TIME]))
        base, newest = log.end, draw(st.integers(0, 2**45))
        pairs = [(base + it.after, it.value or b"") for it in found]
        if turn == "within":
            kind |= TRANSACTIONAL
            running.setdefault(producer, Transaction(producer, base)).batches.append(
                (pairs, newest)
            )
        else:
            log.committed.update((at, (payload, newest)) for at, payload in pairs)
        body = pack(b"".join(it.encode() for it in found)) if found else b""
        batch = batch_of(
            body, len(found), base=base, last=last, kind=kind, producer=producer, newest=newest
        )
        log.append(last, batch)
    for producer in [*running]:
        finish(producer)
    return log


def test_the_checksum_of_these_tests_is_the_published_one() -> None:
    assert checksum(b"123456789") == 0xE3069283


@settings(max_examples=60)
@given(kept_logs(), st.data())
def test_who_reads_sees_what_was_committed(log: KeptLog, data: st.DataObject) -> None:
    """From any offset on, and with the answer cut short anywhere."""
    edges = [edge for first, last, _ in log.batches for edge in (first, last)]
    begin = data.draw(st.sampled_from([0, *edges]) | st.integers(0, log.end))
    sent, aborted = log.answer(begin)
    cut = data.draw(st.integers(0, len(sent)))
    batches, position = read_batches(
        memoryview(sent)[:cut], data.draw(st.permutations(aborted)), begin
    )
    whole = 0
    expected_position = begin
    for _, last, batch in log.batches:
        if last >= begin and (whole := whole + len(batch)) <= cut:
            expected_position = last + 1
    assert position == expected_position

    sent, aborted = log.answer(position)
    more, position = read_batches(memoryview(sent), data.draw(st.permutations(aborted)), position)
    assert position == max(begin, log.end if log.batches and edges[-1] >= begin else begin)
    waiting = deque(batches + more)

    left = sorted(at for at in log.committed if at >= begin)
    wanted = begin
    while waiting:
        limit = data.draw(st.integers(1, 9) | st.just(1000))
        wanted = max(wanted, data.draw(st.just(begin) | st.sampled_from(left or [begin])))
        expected = [at for at in left if at >= wanted][:limit]
        records, newest = take_records(waiting, limit, wanted)
        if records is None:
            assert not expected
            break
        assert [*records] == [(at, log.committed[at][0]) for at in expected]
        assert newest == log.committed[expected[-1]][1]
        contiguous = all(after - before == 1 for before, after in pairwise(expected))
        assert isinstance(records.offsets, range) == contiguous
        left = [at for at in left if at > expected[-1]]
    assert not waiting
    assert not [at for at in left if at >= wanted]


SOUND: Final = batch_of(
    b"".join(Entry(number, b"abc", b"k", [(b"h", b"v")]).encode() for number in range(3)), 3
)


def test_no_bit_of_what_is_checked_can_turn_unseen() -> None:
    assert read(SOUND) == [(0, b"abc"), (1, b"abc"), (2, b"abc")]
    for bit in range(8 * (CHECKED_FROM - 5), 8 * len(SOUND)):
        damaged = bytearray(SOUND)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnsoundError):
            read_batches(memoryview(damaged), [], 0)


def test_a_batch_of_another_length_is_unsound_or_not_whole() -> None:
    for bit in range(8 * 8, 8 * 12):
        damaged = bytearray(SOUND)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert read_batches(memoryview(damaged), [], 0) == ([], 0)
        except UnsoundError:
            continue


@pytest.mark.parametrize("version", [0, 1, 3, 127, -1])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(UnsoundError, match="version"):
        read(batch_of(Entry(0, b"abc").encode(), 1, version=version))


def test_a_short_message_of_an_earlier_version_is_refused() -> None:
    """It is whole with fewer bytes than the head of a batch, and would be waited for for ever."""
    checked = struct.pack(">bbqii", 1, 0, 0, -1, 3) + b"abc"
    message = struct.pack(">qiI", 0, len(checked) + 4, 0) + checked
    with pytest.raises(UnsoundError, match="version"):
        read(message)


@pytest.mark.parametrize("code", [5, 6, 7])
def test_an_unknown_packing_is_refused(code: int) -> None:
    with pytest.raises(UnsoundError, match="packed"):
        read(batch_of(Entry(0, b"abc").encode(), 1, kind=code))


@pytest.mark.parametrize("name", sorted(PACKINGS.keys() - {"plain"}))
def test_broken_packed_data_is_refused(name: str) -> None:
    code, pack = PACKINGS[name]
    packed = pack(b"".join(Entry(number, b"abc" * 99).encode() for number in range(3)))
    middle = len(packed) // 2
    turned = packed[:1] + bytes(byte ^ 255 for byte in packed[1:])
    for broken in (packed[:middle], packed[:20], packed[:1], b"", turned, b"\xff" * 40):
        with pytest.raises(UnsoundError):
            read(batch_of(broken, 3, kind=code))


HUGE, LEAST, ENDLESS = varint(2**63 - 1), varint(-(2**63)), b"\xff" * 10
NEAR, FAR = Entry(0, b"first").encode(), Entry(1, b"second").encode()
START: Final = b"\0" + varint(0) + varint(0)
LIES: Final[dict[str, tuple[bytes, int]]] = {
    "nothing at all": (b"", 1),
    "more records than there are": (NEAR + FAR, 3),
    "many more records than there are": (NEAR + FAR, 2**31 - 1),
    "fewer records than there are": (NEAR + FAR, 1),
    "bytes behind the last": (NEAR + b"\0", 1),
    "a cut last record": (NEAR + FAR[:-2], 2),
    "a length of nothing": (varint(0) + NEAR, 2),
    "a length below nothing": (varint(-1) + NEAR[1:], 1),
    "a length one too large": (varint(len(NEAR)) + NEAR[1:], 1),
    "a huge length": (HUGE + NEAR[1:], 1),
    "the least length": (LEAST + NEAR[1:], 1),
    "a length of ten bytes": (ENDLESS + NEAR[1:], 1),
    "a length without an end": (b"\x80" * 3, 1),
    "attributes alone": (sized(b"\0"), 1),
    "a time without an end": (sized(b"\0" + b"\x80" * 4), 1),
    "a time of eleven bytes": (sized(b"\0" + b"\x80" * 10 + b"\0" + START), 1),
    "no offset": (sized(b"\0" + varint(0)), 1),
    "no key": (sized(START), 1),
    "a key longer than its record": (sized(START + varint(3) + b"ab") + FAR, 2),
    "a key longer than its batch": (sized(START + varint(3000) + b"ab"), 1),
    "a huge key": (sized(START + HUGE + b"ab" + sized(b"value")), 1),
    "a key of ten bytes": (sized(START + ENDLESS + b"ab"), 1),
    "no value": (sized(START + sized(b"key")), 1),
    "a value whose length is in the next record": (sized(START + varint(-1) + b"\x80") + FAR, 2),
    "a value longer than its record": (sized(START + varint(-1) + varint(3) + b"ab") + FAR, 2),
    "a value longer than its batch": (sized(START + varint(-1) + varint(3000) + b"ab"), 1),
    "a huge value": (sized(START + varint(-1) + HUGE + b"ab"), 1),
    "a value of ten bytes": (sized(START + varint(-1) + ENDLESS + b"ab"), 1),
    "an offset below its batch": (Entry(-1, b"first").encode() + FAR, 2),
    "an offset beyond its batch": (NEAR + Entry(2, b"second").encode(), 2),
    "a huge offset": (NEAR + Entry(2**63 - 1, b"second").encode(), 2),
    "the least offset": (Entry(-(2**63), b"first").encode() + FAR, 2),
    "an offset twice": (NEAR + NEAR, 2),
    "offsets that fall": (FAR + NEAR, 2),
}


@pytest.mark.parametrize("limit", [1, 1000])
@pytest.mark.parametrize("name", LIES)
def test_records_that_lie_are_refused(name: str, limit: int) -> None:
    """Whether they are taken at once or one by one; the next batch is not read for them."""
    body, count = LIES[name]
    sent = batch_of(body, count) + batch_of(Entry(0, b"x" * 5000).encode(), 1, base=2**31)
    batches, _ = read_batches(memoryview(sent), [], 0)
    waiting = deque(batches)
    with pytest.raises(UnsoundError):
        while waiting:
            take_records(waiting, limit, 0)


def test_a_null_is_a_null_by_any_number_below_nothing() -> None:
    record = sized(START + LEAST + LEAST + varint(0))
    assert read(batch_of(record, 1)) == [(0, b"")]


def plainly_read(body: bytes, count: int, last: int) -> list[tuple[int, bytes]]:
    """What the records of a batch are; raises ValueError where one is not whole."""
    at = 0

    def number(end: int) -> int:
        nonlocal at
        value = 0
        for shift in range(0, 64, 7):
            if at >= end:
                raise ValueError("a number is cut")
            value, at = value | (body[at] & 127) << shift, at + 1
            if body[at - 1] < 128:
                value &= 2**64 - 1
                return value >> 1 if value % 2 == 0 else -(value >> 1) - 1
        raise ValueError("a number is too long")

    out: list[tuple[int, bytes]] = []
    before = -1
    for _ in range(count):
        length = number(len(body))
        end = at + length
        if not at < end <= len(body):
            raise ValueError("a length")
        at += 1
        number(end)
        after = number(end)
        if not before < after <= last:
            raise ValueError("an offset")
        before = after
        for _ in range(2):
            length = max(number(end), 0)
            if length > end - at:
                raise ValueError("a key or a value")
            part, at = body[at : at + length], at + length
        out.append((after, part))
        at = end
    if at != len(body):
        raise ValueError("there is more")
    return out


@settings(max_examples=150)
@given(entries(), st.integers(-1, 2), st.integers(1, 9), st.data())
def test_damaged_records_are_refused_or_read_as_a_plain_reader_would(
    found: list[Entry], more: int, limit: int, data: st.DataObject
) -> None:
    body = bytearray(b"".join(it.encode() for it in found))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, min(len(body), 60)))
        size = data.draw(st.integers(0, 3))
        body[at : at + size] = data.draw(st.binary(max_size=3) | st.sampled_from([HUGE, LEAST]))
    count, last = max(len(found) + more, 1), max((it.after for it in found), default=0)
    try:
        expected = plainly_read(bytes(body), count, last)
    except ValueError:
        expected = None
    batches, _ = read_batches(memoryview(batch_of(bytes(body), count, last=last)), [], 0)
    waiting = deque(batches)
    taken: list[tuple[int, bytes]] = []
    try:
        while waiting:
            taken += take_records(waiting, limit, 0)[0] or []
    except UnsoundError:
        assert expected is None
    else:
        assert taken == expected


KEPT = Entry(0, b"abc").encode()
MARKS: Final = {
    "attributes alone": sized(b"\0"),
    "a length without an end": b"\x80" * 3,
    "a length of a million bytes": b"\xff" * 2**20,
    "no key": sized(START),
    "a null key": sized(START + sized(None)),
    "a short key": sized(START + sized(b"\0\0\0") + sized(b"\0" * 6)),
    "a key longer than its batch": sized(START + varint(4) + b"\0\0\0"),
    "a huge key": sized(START + HUGE + b"\0\0\0"),
}


@pytest.mark.parametrize("name", MARKS)
def test_a_damaged_mark_is_refused(name: str) -> None:
    mark = batch_of(MARKS[name], 1, base=1, kind=TRANSACTIONAL | CONTROL, producer=4)
    data = batch_of(KEPT, 1, kind=TRANSACTIONAL, producer=4)
    with pytest.raises(UnsoundError, match="mark"):
        read_batches(memoryview(data + mark), [(4, 0)], 0)


def test_a_mark_of_which_the_records_are_gone_is_none() -> None:
    """Compaction keeps such a batch for as long as its producer may come back."""
    kind = TRANSACTIONAL | CONTROL
    empty = batch_of(b"", 0, last=0, kind=kind, producer=4)
    batches, position = read_batches(
        memoryview(empty + batch_of(KEPT, 1, base=1, producer=4)), [], 0
    )
    assert [*(take_records(deque(batches), 9, 0)[0] or [])] == [(1, b"abc")]
    assert position == 2


def test_a_producer_that_gave_up_may_go_on() -> None:
    """Its mark ends what was given up; what it sends without a transaction is nobody's to undo."""

    def batch(base: int, **more: int) -> bytes:
        return batch_of(KEPT, 1, base=base, **more)

    sent = (
        batch(0, producer=4, kind=TRANSACTIONAL)
        + batch(1, producer=4)
        + batch(2, producer=5, kind=TRANSACTIONAL)
        + marked(ABORT, base=3, producer=4)
        + batch(4, producer=4, kind=TRANSACTIONAL)
        + marked(COMMIT, base=5, producer=4)
        + marked(COMMIT, base=6, producer=5)
        + batch(7, producer=4, kind=TRANSACTIONAL)
        + marked(ABORT, base=8, producer=4)
    )
    batches, position = read_batches(memoryview(sent), [(4, 7), (4, 0)], 0)
    assert [*(take_records(deque(batches), 9, 0)[0] or [])] == [(at, b"abc") for at in (1, 2, 4)]
    assert position == 9


@pytest.mark.parametrize("bases", [(0, 0), (5, 4), (0, 1, 1), (-1,), (-(2**63),)])
def test_batches_out_of_their_order_are_refused(bases: tuple[int, ...]) -> None:
    """Where a batch begins is outside of what its checksum is of."""
    sent = b"".join(batch_of(KEPT, 1, base=base) for base in bases)
    with pytest.raises(UnsoundError, match="head"):
        read_batches(memoryview(sent), [], 0)


@pytest.mark.parametrize("last", [-1, -(2**31)])
def test_a_batch_that_ends_before_it_begins_is_refused(last: int) -> None:
    with pytest.raises(UnsoundError, match="head"):
        read(batch_of(KEPT, 1, last=last))


def test_a_batch_of_fewer_than_no_records_is_refused() -> None:
    with pytest.raises(UnsoundError, match="head"):
        read(batch_of(KEPT, -1, last=0))
