"""Invalid inputs: values of a type, and mutations of valid ones that keep most of their form."""

from __future__ import annotations

import datetime as dt
import enum
import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final, TypeVar

import msgspec
import yaml
from msgspec import inspect

_T = TypeVar("_T")

_BLOCK: Final = 256
"""Inputs from one state of the generator: an input is repeated from the start of its block."""

_ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1),
    *(0.5, -0.0, 1e308, 5e-324, 1e-9, float("nan"), float("inf"), -float("inf")),
    *("", "\x00", "é", "a" * 300, "x" * 70_000, "device:x", "x.custom", "2026-03-01T12:00:00Z"),
    *("0:1,1:2", "-1", "1e999", "1/0", "..", "../../etc/passwd", "\x1f", "null", "=cmd", "9" * 400),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": {"c": []}}}, [0] * 300, ["x"] * 70),
)
_FRAGMENTS: Final = (
    *(b"", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b'"', b"\\", b"{", b"}"),
    *(b"[", b"]", b",", b":", b"\n", b"\r\n", b"\t", b"-", b"1e400", b"NaN", b"&a", b"*a", b"<<"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff" * 3),
    *(b"\xc7\x0c\xff" + b"\xff" * 12, b"\x80\x04cos\nsystem\n.", b"9" * 5000, b"!!python/name:os"),
)
_NESTED: Final = {
    "json": (b"[", b'{"a":', b'{"properties":', b'[{"context":'),
    "msgpack": (b"\x91", b"\x81\xa1a", b"\x81\xaaproperties", b"\xc9\x00"),
    "yaml": (b"[", b"{a: ", b"- ", b"? "),
    "": (b"(", b"%", b"\x00"),
}
_FORMATS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]] = {
    "json": (msgspec.json.decode, msgspec.json.encode),
    "msgpack": (msgspec.msgpack.decode, msgspec.msgpack.encode),
    "yaml": (yaml.safe_load, lambda tree: json.dumps(tree).encode()),
}


class Mutator:
    """An endless sequence of inputs that depends on a seed alone.

    Args:
        seeds: valid inputs, at least one.
        form: ``json``, ``msgpack`` or ``yaml``, to mutate values as well as bytes; else "".
        seed: name of the sequence.
    """

    def __init__(self, seeds: Sequence[bytes], form: str, seed: str) -> None:
        """Decode the valid inputs."""
        self._seeds = seeds
        self._form = form
        self._seed = seed
        self._random = Random()
        self._trees: list[Any] = []
        if form:
            decode, self._encode = _FORMATS[form]
            self._trees = [decode(valid) for valid in seeds]

    def inputs(self, start: int = 0) -> Iterator[bytes]:
        """Yield the inputs from number `start` on, the first of which is the first valid one."""
        number = start // _BLOCK * _BLOCK
        while True:
            if number % _BLOCK == 0:
                self._random.seed(f"{self._seed}/{number // _BLOCK}")
            made = self._one()
            if number >= start:
                yield self._seeds[number] if number < len(self._seeds) else made
            number += 1

    def _one(self) -> bytes:
        draw = self._random.random()
        if draw < 0.004:
            return self._choose(_NESTED[self._form]) * int(10 ** (4 * self._random.random()))
        data = self._of_a_tree() if self._trees and draw < 0.7 else self._choose(self._seeds)
        if draw < 0.45 and self._trees:
            return data
        for _ in range(1 + int(3 * self._random.random())):
            data = self._change_bytes(data)
        return data

    def _choose(self, among: Sequence[_T]) -> _T:
        return among[int(len(among) * self._random.random())]

    def _of_a_tree(self) -> bytes:
        tree = self._choose(self._trees)
        for _ in range(1 + int(2.5 * self._random.random() ** 2)):
            tree = self._change(tree)
        try:
            return self._encode(tree)
        except (TypeError, ValueError, OverflowError):  # the form has no such value
            return self._choose(self._seeds)

    def _change(self, tree: Any) -> Any:
        """Change one part of a tree, and copy only what contains it."""
        random = self._random.random()
        if isinstance(tree, dict) and tree and random < 0.92:
            copy = dict(tree)
            name = self._choose(tuple(copy))
            if random < 0.72:
                copy[name] = self._change(copy[name])
            elif random < 0.8:
                del copy[name]
            elif random < 0.86:
                copy[self._choose(_ODD[19:25])] = copy[name]
            else:
                copy[name] = self._part()
            return copy
        if isinstance(tree, list) and tree and random < 0.92:
            place = int(len(tree) * self._random.random())
            if random < 0.7:
                return [*tree[:place], self._change(tree[place]), *tree[place + 1 :]]
            if random < 0.78:
                return tree[:place] + tree[place + 1 :]
            if random < 0.86:
                return tree + [tree[place]] * int(10 ** (2.5 * self._random.random()))
            return [*tree, self._part()]
        if isinstance(tree, bytes) and random < 0.6:
            return self._change_bytes(tree)
        if isinstance(tree, str) and random < 0.4:
            return self._change_bytes(tree.encode()).decode("utf-8", "ignore")
        if type(tree) is int and random < 0.4:
            return tree + self._choose((-1, 1, 2**20, -tree, -2 * tree))
        return self._choose(_ODD)

    def _part(self) -> Any:
        """Return a part of a valid input."""
        tree = self._choose(self._trees)
        for _ in range(3):
            if isinstance(tree, dict) and tree:
                tree = self._choose(tuple(tree.values()))
            elif isinstance(tree, list) and tree:
                tree = self._choose(tree)
        return tree

    def _change_bytes(self, data: bytes) -> bytes:
        random, size = self._random.random(), len(data)
        place = int((size + 1) * self._random.random())
        if random < 0.35 and place < size:
            flipped = data[place] ^ (1 << int(8 * self._random.random()))
            return data[:place] + bytes((flipped,)) + data[place + 1 :]
        if random < 0.5 and place < size:
            number = int(256 * self._random.random())
            return data[:place] + bytes((number,)) + data[place + 1 :]
        if random < 0.65:
            return data[:place] + self._choose(_FRAGMENTS) + data[place:]
        end = min(size, place + int(10 ** (2 * self._random.random())))
        if random < 0.75:
            return data[:place] + data[end:]
        if random < 0.85:
            return data[:end] + data[place:end] + data[end:]
        if random < 0.92:
            return data[:place]
        other = self._choose(self._seeds)
        return data[:place] + other[int((len(other) + 1) * self._random.random()) :]


def sample(kind: Any, random: Random) -> Any:
    """Draw a valid value of a type that msgspec decodes."""
    return _sample(inspect.type_info(kind), random, 0)


def _sample(info: Any, random: Random, depth: int) -> Any:
    count = 0 if depth > 4 else random.randint(0, 3)

    def inner(part: Any) -> Any:
        return _sample(part, random, depth + 1)

    match info:
        case inspect.StructType() | inspect.DataclassType():
            return info.cls(**{field.name: inner(field.type) for field in info.fields})
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            values = [inner(info.item_type) for _ in range(max(count, info.min_length or 0))]
            return tuple(values) if isinstance(info, inspect.VarTupleType) else values
        case inspect.SetType() | inspect.FrozenSetType():
            return frozenset(inner(info.item_type) for _ in range(count))
        case inspect.TupleType():
            return tuple(map(inner, info.item_types))
        case inspect.DictType():
            return {inner(info.key_type): inner(info.value_type) for _ in range(count)}
        case inspect.UnionType():
            return inner(random.choice(info.types))
        case inspect.LiteralType():
            return random.choice(info.values)
        case inspect.EnumType():
            return random.choice([*info.cls]) if issubclass(info.cls, enum.Enum) else None
        case inspect.BoolType():
            return random.random() < 0.5
        case inspect.IntType():
            return max(
                info.ge or 0, min(random.choice((0, 1, 7, 1_750_000_000_000)), info.le or 2**62)
            )
        case inspect.FloatType():
            return max(info.ge or 0.01, min(random.random(), info.le or 1.0))
        case inspect.StrType():
            return random.choice(("a", "u-17", "properties.price", "abc"))[: info.max_length]
        case inspect.BytesType():
            return random.randbytes(random.choice((0, 8, 32, 64)))
        case inspect.DateTimeType():
            return dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
        case inspect.RawType():
            return msgspec.Raw(b"\x01")
    return None
