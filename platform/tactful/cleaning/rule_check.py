"""Dry runs of cleaning rules on a file of events, with examples."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec

from tactful.cleaning.redrive import as_sent
from tactful.errors import DatasetError
from tactful.util.clock import now_ms
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.decode_requests import Limits, decode_events, decode_items
from tactful_streaming.contract.log_entries import Event, Item, decode_entry
from tactful_streaming.errors import EntryError, PayloadError
from tactful_streaming.rules.rules import Dropped, Rules

_GZIP = b"\x1f\x8b"
_BATCH = 1000
_BATCH_BYTES = 4 * 1024 * 1024
_MOST_REFUSALS = 20
_LIMITS = Limits(max_bytes=1 << 40, max_batch=_BATCH)
_raw_array: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])

Source = Literal["door", "topic"]
"""Content of the file: request bodies, or records of a topic that no server has checked."""


class Sample(msgspec.Struct, kw_only=True, frozen=True):
    """An event that a rule applied to."""

    place: int  # line of the file, or element of its array, from 1
    event: dict[str, Any]  # as received
    after: dict[str, Any] | None = None  # after the rules, for a rule that normalises


class RuleOutcome(msgspec.Struct, kw_only=True):
    """Effect of one rule."""

    rule: str
    action: str  # drop, dead_letter or normalise
    line: int  # in the file of rules
    reason: str  # the condition in words
    events: int = 0  # number of events that it dropped, set aside or changed
    samples: list[Sample] = []  # the first of them


class Refusal(msgspec.Struct, kw_only=True, frozen=True):
    """A part of the file that is no event."""

    place: int
    code: str
    message: str


class CheckReport(msgspec.Struct, kw_only=True):
    """Effect of all rules on the events of a file."""

    file: str
    events: int = 0
    clean: int = 0  # events that pass
    changed: int = 0  # passing events that are changed
    dropped: int = 0
    dead_lettered: int = 0
    refused: int = 0  # elements that are no event
    refusals: list[Refusal] = []  # the first of these elements
    rules: list[RuleOutcome] = []  # in the order of the rules


def check_file(
    path: Path,
    rules: Rules,
    *,
    source: Source = "door",
    items: Path | None = None,
    samples: int = 3,
    advanced: Callable[[int], object] = lambda size: None,
) -> CheckReport:
    """Try rules without earlier events on the events of a file, in its order.

    The file is a JSON array, one JSON object or NDJSON, gzipped or not; `items` is a file of item
    upserts, the catalogue for ``item.*``. `advanced` is called with the bytes read since its last
    call.

    Raises:
        DatasetError: if a file cannot be read.
    """
    check = _Check(path, rules, samples)
    if items is not None:
        for places, lines in _batches(items, lambda size: None):
            check.catalogue(places, lines)
    for places, lines in _batches(path, advanced):
        if source == "door":
            check.bodies(places, lines)
        else:
            check.records(places, lines)
    return check.report()


class _Check:
    """A run of rules over a file."""

    def __init__(self, path: Path, rules: Rules, samples: int) -> None:
        self._rules = rules
        self._samples = samples
        self._items: dict[str, Item] = {}
        self._report = CheckReport(
            file=str(path),
            rules=[
                RuleOutcome(rule=r.name, action=r.action, line=r.line, reason=r.reason)
                for r in rules.rules
            ],
        )
        self._by_name = {outcome.rule: outcome for outcome in self._report.rules}
        self._counts = rules.report().by_rule

    def catalogue(self, places: list[int], lines: list[bytes]) -> None:
        accepted, rejected = decode_items(_body(lines), now=now_ms(), limits=_LIMITS)
        for _, item in accepted:
            self._items[item.item_id] = item
        if rejected:
            first = rejected[0]
            raise DatasetError(f"item {places[first.index]}: {first.code}: {first.message}")

    def bodies(self, places: list[int], lines: list[bytes]) -> None:
        try:
            accepted, rejected = decode_events(
                _body(lines),
                now=now_ms(),
                limits=_LIMITS,
                content_type="application/x-ndjson",
                mint=lambda: "",
            )
        except PayloadError as error:
            self._refuse(places[0], error.code, error.message)
            return
        refusals = {rejection.index: rejection for rejection in rejected}
        events = dict(accepted)
        for index, place in enumerate(places):
            if index in events:
                self._clean(place, events[index])
            elif index in refusals:
                self._refuse(place, refusals[index].code, refusals[index].message)

    def records(self, places: list[int], lines: list[bytes]) -> None:
        for place, line in zip(places, lines, strict=True):
            try:
                entry = decode_entry(line)
            except EntryError as error:
                self._refuse(place, "no_entry", str(error))
                continue
            if isinstance(entry, Item):
                self._items[entry.item_id] = entry
            elif isinstance(entry, Event):
                self._clean(place, entry)

    def report(self) -> CheckReport:
        counts = self._rules.report()
        report = self._report
        for name in ("events", "clean", "changed", "dropped", "dead_lettered"):
            setattr(report, name, getattr(counts, name))
        for outcome in report.rules:
            outcome.events = counts.by_rule[outcome.rule]
        return report

    def _clean(self, place: int, event: Event) -> None:
        item = self._items.get(event.item_id) if event.item_id is not None else None
        result = self._rules.clean(event, item, self._items)
        if isinstance(result, Dropped):
            self._sample(result.rule, Sample(place=place, event=as_sent(event)))
        elif result is not event:
            counts = self._rules.report().by_rule
            for name, count in counts.items():
                if count > self._counts[name]:
                    sample = Sample(place=place, event=as_sent(event), after=as_sent(result))
                    self._sample(name, sample)
            self._counts = counts

    def _sample(self, rule: str, sample: Sample) -> None:
        samples = self._by_name[rule].samples
        if len(samples) < self._samples:
            samples.append(sample)

    def _refuse(self, place: int, code: str, message: str) -> None:
        self._report.refused += 1
        if len(self._report.refusals) < _MOST_REFUSALS:
            self._report.refusals.append(Refusal(place=place, code=code, message=message))


def _batches(
    path: Path, advanced: Callable[[int], object]
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield batches of elements of a file with their places."""
    try:
        with contextlib.ExitStack() as opened:
            raw: BinaryIO = opened.enter_context(path.open("rb"))
            zipped = raw.read(2) == _GZIP
            raw.seek(0)
            file = cast(BinaryIO, opened.enter_context(gzip.open(raw))) if zipped else raw
            done = 0
            for batch in _gathered(_elements(file)):
                yield batch
                advanced(raw.tell() - done)
                done = raw.tell()
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    except DECODE_ERRORS as error:
        raise DatasetError(
            f"{path}: begins like a JSON array but is not valid JSON: {error}"
        ) from error


def _elements(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    first = b""
    while not first.strip():
        first = file.readline()
        if not first:
            return
    file.seek(0)
    begin = first.lstrip()[:1]
    if begin == b"[":
        for number, element in enumerate(_raw_array.decode(file.read()), start=1):
            yield number, bytes(element)
    elif begin == b"{" and not first.rstrip().endswith(b"}"):
        yield 1, file.read()
    else:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _gathered(elements: Iterator[tuple[int, bytes]]) -> Iterator[tuple[list[int], list[bytes]]]:
    places: list[int] = []
    lines: list[bytes] = []
    size = 0
    for place, line in elements:
        places.append(place)
        lines.append(line)
        size += len(line)
        if len(lines) == _BATCH or size > _BATCH_BYTES:
            yield places, lines
            places, lines, size = [], [], 0
    if lines:
        yield places, lines


def _body(lines: list[bytes]) -> bytes:
    """Return the elements as NDJSON; line breaks inside an element become spaces."""
    return b"\n".join(line.strip().replace(b"\n", b" ").replace(b"\r", b" ") for line in lines)
