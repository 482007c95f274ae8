"""Splitting of a batch with invalid JSON into elements, to keep the valid ones.

Only brackets, strings and commas are parsed, so an element may hold NaN, bad UTF-8, a missing value
or ten thousand brackets: it is rejected later, by itself. One pass, no recursion, linear time: the
possessive patterns never try a byte twice.
"""

from __future__ import annotations

import re

from tactful_streaming.errors import PayloadError

# A string runs to its closing quote or, unterminated, to the end.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_FLAT = rb'\[[^\[\]{}"]*+\]|\{[^\[\]{}"]*+\}'
_BRACKETS = rb"[\[{]++|[\]}]++"
_TO_COMMA_OR_BRACKETS = re.compile(
    rb'(?:[^\[\]{}",]++|' + _STRING + rb")*+(,|" + _BRACKETS + rb"|\Z)", re.DOTALL
)
_TO_BRACKETS = re.compile(
    rb'(?:[^\[\]{}"]++|' + _STRING + rb"|" + _FLAT + rb")*+(" + _BRACKETS + rb"|\Z)", re.DOTALL
)
_BLANK = b" \t\r\n"


def split_array(body: bytes, most: int) -> list[bytes]:
    """Cut ``[a, b, …]`` at its top-level commas; one more than `most` ends the search.

    Raises:
        PayloadError: if there are more brackets of one direction than of the other.
    """
    text = body.strip(_BLANK)
    elements: list[bytes] = []
    start = position = depth = 1
    while depth > 0 and len(elements) <= most:
        match = (_TO_COMMA_OR_BRACKETS if depth == 1 else _TO_BRACKETS).match(text, position)
        token = match[1] if match is not None else b""
        if match is None or not token:
            raise PayloadError("not_json", "the body is not JSON: it ends before the array does")
        position = match.end()
        if token == b",":
            elements.append(text[start : position - 1])
            start = position
        elif token[0] in b"[{":
            depth += len(token)
        else:
            depth -= len(token)
    if depth <= 0:
        end = position + depth
        elements.append(text[start : end - 1])
        if end != len(text):
            raise PayloadError("not_json", f"text after the end of the array at byte {end}")
    return elements if len(elements) > 1 or elements[0].strip(_BLANK) else []


def split_lines(body: bytes) -> list[bytes]:
    """Return the lines of an NDJSON body without blank lines."""
    return [line for line in body.split(b"\n") if line.strip(_BLANK)]


def too_deep(element: bytes, limit: int) -> bool:
    """Whether `element` nests deeper than `limit`; an innermost bracket may not count."""
    if element.count(b"[") + element.count(b"{") <= limit:
        return False
    depth = position = 0
    while depth <= limit:
        match = _TO_BRACKETS.match(element, position)
        if match is None or not match[1]:
            return False
        depth += len(match[1]) if match[1][0] in b"[{" else -len(match[1])
        position = match.end()
    return True
