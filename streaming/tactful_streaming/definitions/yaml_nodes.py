"""Reads a YAML file node by node, so that every error names its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.decode_requests import EVENT_TYPES
from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.definitions.model import DURATION_UNITS
from tactful_streaming.errors import StreamingError

T = TypeVar("T")
D = TypeVar("D")
Keys = dict[str, tuple[yaml.Node, yaml.Node]]
"""Nodes of the keys and values of a mapping, by key."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CUSTOM_TYPE = re.compile(r"x\.[a-z0-9_.-]{1,62}")
_DURATION = re.compile(r"(-?)([0-9]{1,13})(ms|s|m|h|d)")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"-?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_LONGEST = 36_525 * DURATION_UNITS["d"]


class NodeReader:
    """Reads the nodes of one file; mistakes raise errors of one class."""

    def __init__(self, file: str, error: type[StreamingError]) -> None:
        """Read a file called `file`; raise errors of class `error`."""
        self._file = file
        self._error = error

    def compose(self, text: str) -> yaml.Node | None:
        """Return the root node of a text; None if it is empty."""
        try:
            root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise self._error(f"{self._file}:{line}: not YAML: {error.problem}") from error
        except (yaml.YAMLError, *DECODE_ERRORS) as error:
            raise self._error(f"{self._file}:1: not YAML: {error}") from error
        return root

    def mistake(self, node: yaml.Node, message: str) -> StreamingError:
        """Return the error with `message` at the line of `node`."""
        return self._error(f"{self._file}:{node.start_mark.line + 1}: {message}")

    def text(self, node: yaml.Node) -> str:
        """Read a single value, as written."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.mistake(node, "a single value is needed here")
        return str(node.value)

    def name(self, node: yaml.Node) -> str:
        """Read the name of a definition or rule."""
        text = self.text(node)
        if not _NAME.fullmatch(text):
            raise self.mistake(node, f"{text!r} is not snake_case of at most 64 characters")
        return text

    def event(self, node: yaml.Node) -> str:
        """Read an event type."""
        text = self.text(node)
        if text not in EVENT_TYPES and not _CUSTOM_TYPE.fullmatch(text):
            raise self.mistake(
                node,
                f"{text!r} is not one of {', '.join(sorted(EVENT_TYPES))} or x.<custom>"
                f"{suggestion(text, tuple(EVENT_TYPES))}",
            )
        return text

    def scalar(self, node: yaml.Node) -> Scalar:
        """Read text, a number, true or false; in quotes always text."""
        text = self.text(node)
        if isinstance(node, yaml.ScalarNode) and node.style is not None:
            return text
        if text in ("true", "false"):
            return text == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _DECIMAL.fullmatch(text) else text

    def number(self, node: yaml.Node) -> int | float:
        """Read a number."""
        value = self.scalar(node)
        if type(value) is not int and type(value) is not float:
            raise self.mistake(node, f"{self.text(node)!r} is not a number")
        return value

    def integer(self, low: int, high: int) -> Callable[[yaml.Node], int]:
        """Return a reader of whole numbers from `low` to `high`."""

        def read(node: yaml.Node) -> int:
            text = self.text(node)
            if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
                raise self.mistake(node, f"{text!r} is not a whole number from {low} to {high}")
            return int(text)

        return read

    def duration(self, node: yaml.Node, *, signed: bool = False) -> int:
        """Read a duration in milliseconds, above zero unless `signed`."""
        text = self.text(node)
        match = _DURATION.fullmatch(text)
        if not match or (not signed and (match[1] or int(match[2]) == 0)):
            above = "" if signed else " above zero"
            raise self.mistake(
                node, f"{text!r} is no duration{above}: a whole number and ms, s, m, h or d"
            )
        duration = int(match[2]) * DURATION_UNITS[match[3]]
        if duration > _LONGEST:
            raise self.mistake(node, f"{text!r} is longer than 36525d")
        return -duration if match[1] else duration

    def choice(self, allowed: Sequence[str]) -> Callable[[yaml.Node], str]:
        """Return a reader of one of `allowed`."""

        def read(node: yaml.Node) -> str:
            text = self.text(node)
            if text not in allowed:
                raise self.mistake(node, f"{text!r} is not one of {', '.join(allowed)}")
            return text

        return read

    def many(self, read: Callable[[yaml.Node], T]) -> Callable[[yaml.Node], tuple[T, ...]]:
        """Return a reader of one value or a list of different ones."""

        def read_all(node: yaml.Node) -> tuple[T, ...]:
            nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
            if not nodes:
                raise self.mistake(node, "the list is empty")
            values: list[T] = []
            for element in nodes:
                value = read(element)
                if any(type(value) is type(other) and value == other for other in values):
                    raise self.mistake(element, f"{value!r} is listed twice")
                values.append(value)
            return tuple(values)

        return read_all

    def mapping(self, node: yaml.Node, kind: str, allowed: Sequence[str] | None = None) -> Keys:
        """Read keys and values; only `allowed` keys, if given."""
        names = f": {', '.join(allowed)}" if allowed else ""
        if not isinstance(node, yaml.MappingNode):
            raise self.mistake(node, f"{kind} is written as keys and values{names}")
        keys: Keys = {}
        for key_node, value_node in node.value:
            key = self.text(key_node)
            if allowed is not None and key not in allowed:
                raise self.mistake(
                    key_node,
                    f"{key!r} is no key of {kind}; it has {', '.join(allowed)}"
                    f"{suggestion(key, allowed)}",
                )
            if key in keys:
                raise self.mistake(key_node, f"{key} comes twice")
            keys[key] = (key_node, value_node)
        return keys

    def required(self, keys: Keys, node: yaml.Node, key: str, read: Callable[[yaml.Node], T]) -> T:
        """Read the value of `key`, which is required."""
        if key not in keys:
            raise self.mistake(node, f"{key} is missing")
        return self.within(key, read, keys[key][1])

    def optional(self, keys: Keys, key: str, read: Callable[[yaml.Node], T], default: D) -> T | D:
        """Read the value of `key`; `default` without it."""
        return self.within(key, read, keys[key][1]) if key in keys else default

    def within(self, key: str, read: Callable[[yaml.Node], T], node: yaml.Node) -> T:
        """Read `node` with `read`; errors begin with the key."""
        try:
            return read(node)
        except self._error as error:
            place, _, message = str(error).partition(": ")
            raise self._error(f"{place}: {key}: {message}") from None


def read_text(source: Path | str, name: str, error: type[StreamingError]) -> tuple[str, str]:
    """Return name and text of a source: a file, or the text itself, called `name`."""
    if not isinstance(source, Path):
        return name, source
    try:
        return str(source), source.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise error(
            f"{source}:{line}: cannot be read as UTF-8 ({problem.reason}): save it as UTF-8"
        ) from problem
    except OSError as problem:
        raise error(f"{source}: cannot be read: {problem}") from problem


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return `; did you mean …` with the most similar known word, if any."""
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
