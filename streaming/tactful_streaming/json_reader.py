"""Reads many events of JSON at once, as columns, without making an object of each.

Most of what a batch costs is making thousands of objects to read three fields of each and throw
them away. Here a batch becomes arrays: times, and numbers for types and users, which repeat. Other
fields are places in the text, of which strings are made only if somebody asks. What the machine
code does not read (:mod:`tactful_streaming.json_kernel`) is decoded as ever and put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.panes import Rows
from tactful_streaming.records import PADDING, Lines

LEAST: Final = 128
"""Fewer records are not worth it: arrays have to be made for each batch."""

_LONGEST_NAME: Final = 16
_MOST_TYPES: Final = 1 << 10
_MOST_USERS: Final = 1 << 16
_LETTERS: Final = 24
_UNUSUAL_SHARE: Final = 8
"""Where more than one record in so many is unusual, the next batches are decoded as ever."""
_REST: Final = 15
_TICK: Final = 0
"""Number of the type of ticks."""
_STRING: Final = 1
"""What the machine code says of a member that is a string."""
_WIDEST: Final = 1025
"""Bytes of the longest id that the server takes, and a quote. In an array all are as wide as the
widest: one of a megabyte, which somebody else wrote to the topic, would make gigabytes of a batch.
"""

_Decode = Callable[[bytes], Any]


@lru_cache(1)
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    # Imported here, for numba takes most of a second, and few processes read JSON.
    from tactful_streaming import json_kernel

    return json_kernel.compiled(json_kernel.read_events), json_kernel.compiled(
        json_kernel.number_of
    )


def prepare() -> None:
    """Load the machine code, or compile it the first time on a machine, for some seconds."""
    _kernels()


class Numbers:
    """Texts by numbers of our own, in the order in which they were first seen; bounded.

    A :class:`~tactful_streaming.placed_rows.Placing`.
    """

    def __init__(self, most: int) -> None:
        """Begin without texts; there is room for `most` of moderate length, a power of two."""
        slots, ends = np.zeros((4 * most, 4), np.uint64), np.zeros(most + 1, np.int64)
        letters, self._count = np.zeros(most * _LETTERS, np.uint8), np.zeros(1, np.int64)
        self.table = (slots, ends, letters, self._count)
        self._ends, self._letters = ends, letters
        self._texts: list[str] = []
        self._objects = np.full(most + 1, None, np.object_)  # the last, at -1, stays None
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """Text of each number."""
        known, count = len(self._texts), self._count.item()
        if known < count:
            begin, end = self._ends.item(known), self._ends.item(count)
            letters = self._letters[begin:end].tobytes()
            ends = (self._ends[known : count + 1] - begin).tolist()
            new = [letters[a:b].decode() for a, b in pairwise(ends)]
            self._texts += new
            self._objects[known:count] = new
            self._numbers.update(zip(new, range(known, count), strict=True))
        return self._texts

    @property
    def objects(self) -> NDArray[np.object_]:
        """Text of each number; None at -1."""
        self.texts  # noqa: B018  # which notes the newest
        return self._objects

    def number(self, text: str) -> int:
        """The number of a text, a new one if it has none; -1 where there is no room."""
        encoded = text.encode()
        padded = encoded + PADDING  # held until it has been read: an address holds nothing
        place = np.frombuffer(padded, np.uint8).ctypes.data
        number: int = _kernels()[1](place, len(encoded), *self.table)
        return number

    def keys_at(self, places: Rows) -> list[str]:
        """The texts of some numbers."""
        return list(map(self.texts.__getitem__, places.tolist()))

    def place_of(self, key: str) -> int | None:
        """The number of a text; None if it has none."""
        self.texts  # noqa: B018  # which notes the newest
        return self._numbers.get(key)


class NumberedTexts(Sequence[str | None]):
    """A column of texts that repeat.

    Attributes:
        numbers: what the numbers mean.
        places: number of each; -1 for None.
    """

    def __init__(self, numbers: Numbers, places: Rows) -> None:
        """Hold the number of each text."""
        self.numbers = numbers
        self.places = places

    @cached_property
    def objects(self) -> NDArray[np.object_]:
        """The texts in an array."""
        return self.numbers.objects.take(self.places, mode="wrap")

    @cached_property
    def _list(self) -> list[str | None]:
        texts: list[str | None] = self.objects.tolist()
        return texts

    def chosen(self, mask: NDArray[np.bool_]) -> NumberedTexts:
        """Those under `mask`."""
        return NumberedTexts(self.numbers, self.places[mask])

    def where(self, wanted: NDArray[np.bool_]) -> NumberedTexts:
        """The same, with None where it is not `wanted`."""
        return NumberedTexts(self.numbers, np.where(wanted, self.places, -1))

    def __len__(self) -> int:
        """How many."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> str | None: ...

    @overload
    def __getitem__(self, index: slice) -> list[str | None]: ...

    def __getitem__(self, index: int | slice) -> str | list[str | None] | None:
        """A text, or some of them."""
        return self._list[index]

    def __iter__(self) -> Iterator[str | None]:
        """All texts."""
        return iter(self._list)


@lru_cache(1)
def _makers() -> Mapping[int, Callable[[str], Any]]:
    from tactful_streaming import json_kernel as kernel

    return {
        kernel.INTEGER: int,
        kernel.FLOAT: float,
        kernel.TRUE: lambda _: True,
        kernel.FALSE: lambda _: False,
    }


class Column:
    """Values of one source, as places in the text of a batch."""

    def __init__(
        self,
        text: bytes | bytearray,
        found: NDArray[np.uint8],
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
        odd: Mapping[int, Any],
    ) -> None:
        """Hold what was found of each, where it begins and ends, and what was read elsewhere."""
        self._text = text
        self._found = found
        self._begins = begins
        self._ends = ends
        self._odd = odd

    def values(self) -> list[Any]:
        """The values; None where there is none."""
        letters = self._text.decode("latin-1")  # of ASCII, in which no place changes
        made: list[Any]
        if (self._found == _STRING).all():
            places = zip(self._begins.tolist(), self._ends.tolist(), strict=True)
            made = [letters[begin:end] for begin, end in places]
        else:
            made = [None] * len(self._found)
            makers = _makers()
            for place in np.flatnonzero(self._found).tolist():
                value = letters[self._begins.item(place) : self._ends.item(place)]
                convert = makers.get(self._found.item(place))
                made[place] = value if convert is None else convert(value)
        for place, value in self._odd.items():
            made[place] = value
        return made

    def quoted(self) -> NDArray[np.bytes_]:
        """The values, all of which are texts, in UTF-8, each with a quote behind it.

        They are copied from the text as they stand there, without an object for each.
        """
        widths = self._ends - self._begins + 1
        width = int(widths.max())
        if self._odd or width > _WIDEST or int(self._begins.max()) + width > len(self._text):
            return quoted(self.values())
        shape = (len(self._text) - width + 1,)
        copied = np.ndarray(shape, f"S{width}", self._text, strides=(1,))[self._begins]
        if int(widths.min()) < width:
            letters = copied.view(np.uint8).reshape(-1, width)
            letters[np.arange(width) >= widths[:, None]] = 0
        return copied


def quoted(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Texts in UTF-8, each with a quote behind it: so none ends in zeros, which arrays drop."""
    encoded = [text.encode() + b'"' for text in texts]
    if max(map(len, encoded), default=0) <= _WIDEST:
        return np.array(encoded, np.bytes_)
    objects: NDArray[Any] = np.array(encoded, np.object_)  # reads the same, and each has its width
    return objects


def unquoted(texts: NDArray[np.bytes_]) -> list[str]:
    """The texts of which :func:`quoted` made an array."""
    return [text[:-1].decode() for text in texts.tolist()]


class JsonEvents(Sequence[Any]):
    """Events of a batch as columns; one that is asked for by its position is decoded then.

    Attributes:
        times: when each happened, epoch milliseconds.
        users: key of the person behind each.
        anonymous: positions of those that name a device alone.
    """

    def __init__(
        self,
        payloads: Sequence[bytes],
        decode: _Decode,
        times: NDArray[np.int64],
        types: NumberedTexts,
        users: NumberedTexts,
        odd: dict[int, Any],
        columns: Mapping[str, Column],
    ) -> None:
        """Hold columns of equal length; those of `columns` are made when they are asked for.

        Args:
            payloads: the records.
            decode: decodes one.
            times: when each happened.
            types: type of each.
            users: key of the person behind each.
            odd: by position, those that were decoded already; `columns` goes by it, too.
            columns: by source, what makes the values.
        """
        self._payloads = payloads
        self._decode = decode
        self._columns = columns
        self._types = types
        self.times = times
        self.users = users
        self.anonymous = [place for place, event in odd.items() if event.user_id is None]
        self._odd = odd

    def column(self, source: str) -> list[Any]:
        """Values of one source, as they were sent; None where there is none."""
        return [*self.users] if source == "user_id" else self._columns[source].values()

    def quoted(self, source: str) -> NDArray[np.bytes_]:
        """Texts of a source that every event has, in UTF-8, each with a quote behind it."""
        return self._columns[source].quoted()

    def of_types(self, types: Iterable[str]) -> list[int]:
        """Positions of the events that are of one of these types."""
        wanted = self.codes(dict.fromkeys(types, 1), 0)
        places: list[int] = np.flatnonzero(wanted).tolist()
        return places

    def has(self, types: Iterable[str]) -> bool:
        """Whether there are events of one of these types."""
        return bool(self.of_types(types))

    def codes(self, codes: Mapping[str, int], other: int) -> NDArray[np.int64]:
        """Code of the type of each event; `other` where it has none."""
        of_number = [codes.get(text, other) for text in self._types.numbers.texts]
        return np.array(of_number, np.int64)[self._types.places]

    def __len__(self) -> int:
        """How many."""
        return len(self.times)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """An event, or some of them, decoded."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        odd = self._odd.get(place)
        return self._decode(self._payloads[place]) if odd is None else odd

    def __setitem__(self, place: int, event: Any) -> None:
        """Let something be there that is counted for nobody: a tick."""
        self._odd[place] = event
        self._types.places[place] = _TICK


def _text_of(payloads: Sequence[bytes]) -> bytes | bytearray:
    """Payloads as lines, with the padding behind them."""
    if isinstance(payloads, Lines):
        return payloads.text
    return b"\n".join([*payloads, PADDING])


class JsonReader:
    """Reads batches of the same fields."""

    def __init__(
        self,
        event_class: type[Any],
        properties: Sequence[str],
        *,
        decode: _Decode,
        column: Callable[[Sequence[Any], str], list[Any]],
    ) -> None:
        """Prepare to read what `event_class` has, and these properties.

        Args:
            event_class: what `decode` makes of an event.
            properties: names; at most 16 bytes each.
            decode: decodes one record, or raises.
            column: values of one source for some events that were decoded.
        """
        self._read, _ = _kernels()
        from tactful_streaming import json_kernel as kernel

        self._kernel: Any = kernel
        self._event_class = event_class
        self._decode = decode
        self._column = column
        fields = event_class.__struct_fields__
        members = [
            ("kind", 0, kernel.KIND, True),
            ("type", 0, kernel.TYPE, True),
            ("timestamp", 0, kernel.TIME, True),
            ("user_id", 0, kernel.USER, True),
            ("device_id", 0, kernel.OPTIONAL_TEXT, False),
        ]
        members += [("event_id", 0, kernel.TEXT, True)] if "event_id" in fields else []
        members += [
            (field, 0, kernel.OPTIONAL_TEXT, False)
            for field in ("session_id", "item_id")
            if field in fields
        ]
        members += [("properties", 0, kernel.PROPERTIES, False)] if properties else []
        self._sources = {
            name: slot
            for slot, (name, *_) in enumerate(members)
            if name in ("event_id", "session_id", "item_id")
        }
        self._sources |= {
            f"properties.{name}": slot for slot, name in enumerate(properties, len(members))
        }
        members += [(name, 1, kernel.SCALAR, False) for name in properties]
        names = [(name.encode(), parent) for name, parent, *_ in members]
        self._names = np.array(
            [
                [
                    *np.frombuffer(name.ljust(_LONGEST_NAME, b"\0"), "<u8").tolist(),
                    len(name),
                    parent,
                ]
                for name, parent in names
            ],
            np.uint64,
        )
        self._rules = np.array([rule for _, _, rule, _ in members], np.int64)
        self._required = sum(1 << slot for slot, member in enumerate(members) if member[3])
        self._template = np.zeros(kernel.TEMPLATE, np.uint64)
        self._begin_numbers()
        self._rest = 0

    @staticmethod
    def can_read(properties: Sequence[str]) -> bool:
        """Whether these properties can be asked for."""
        return all(len(name.encode()) <= _LONGEST_NAME for name in properties) and (
            len(properties) < 40
        )

    def read(self, payloads: Sequence[bytes]) -> JsonEvents | None:
        """The events that `payloads` are; None where they are better decoded one by one.

        That is where they are few or mostly unusual, or one is no event of a person or a device.
        """
        if len(payloads) < LEAST or payloads[0][:1] != b"{":
            return None
        if self._rest:
            self._rest -= 1
            return None
        events = self._try(payloads)
        if events is None:
            self._rest = _REST
        return events

    def _try(self, payloads: Sequence[bytes]) -> JsonEvents | None:
        count, shape = len(payloads), (len(self._rules), len(payloads))
        text = _text_of(payloads)
        times, types, users = np.empty((3, count), np.int64)
        found = np.zeros(shape, np.uint8)
        begins, ends = np.empty(shape, np.int64), np.empty(shape, np.int64)
        address = np.frombuffer(text, np.uint8).ctypes.data
        for _ in range(2):
            unusual, length = self._read(
                *(address, count, self._names, self._rules, self._required, self._template),
                *(times, types, users, found, begins, ends),
                *self._types.table,
                *self._users.table,
            )
            if unusual >= 0:
                break
            self._begin_numbers()
            found[:] = 0
        # Elsewhere than at their ends, records with line breaks would be taken for several.
        if unusual < 0 or length != len(text) - len(PADDING) or unusual * _UNUSUAL_SHARE > count:
            return None
        odd: dict[int, Any] = {}
        if unusual:
            for place in np.flatnonzero(times == self._kernel.UNUSUAL).tolist():
                try:
                    event = self._decode(payloads[place])
                except Exception:  # whatever it is, it is told by who decodes all of them
                    return None
                key = (
                    self._column([event], "user_id")[0]
                    if type(event) is self._event_class
                    else None
                )
                if key is None:
                    return None
                times[place] = event.timestamp
                types[place], users[place] = self._types.number(event.type), self._users.number(key)
                if types[place] < 0 or users[place] < 0:
                    return None
                odd[place] = event
        columns = {
            source: Column(
                text, found[slot], begins[slot], ends[slot], self._odd_values(odd, source)
            )
            for source, slot in self._sources.items()
        }
        return JsonEvents(
            payloads,
            self._decode,
            times,
            NumberedTexts(self._types, types),
            NumberedTexts(self._users, users),
            odd,
            columns,
        )

    def _begin_numbers(self) -> None:
        self._types, self._users = Numbers(_MOST_TYPES), Numbers(_MOST_USERS)
        self._types.number("")  # the type of a tick, _TICK

    def _odd_values(self, odd: Mapping[int, Any], source: str) -> dict[int, Any]:
        return {place: self._column([event], source)[0] for place, event in odd.items()}
