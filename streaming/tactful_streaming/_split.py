"""Split a batch that is not valid JSON into its elements, so that good neighbours survive.

Only brackets and strings are looked at, so an element may hold NaN, bad UTF-8, a missing value or
ten thousand brackets: it is refused later, by itself. One pass, no recursion, linear time.
"""

from __future__ import annotations

import re

from tactful_streaming.errors import PayloadError

# A string runs to its closing quote or, unterminated, to the end: possessive, so never retried.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_CLOSES = {b"]": b"[", b"}": b"{"}
_BLANK = b" \t\r\n"
_HOPELESS_DEPTH = 50_000


def split_array(body: bytes) -> list[bytes]:
    """Cut ``[a, b, …]`` at its top-level commas.

    Raises:
        PayloadError: if the brackets do not pair up, or nest hopelessly deep.
    """
    text = body.strip(_BLANK)
    open_brackets: list[bytes] = []
    elements: list[bytes] = []
    start = 1
    for match in _TOKEN.finditer(text):
        token = match.group() if match.end() - match.start() == 1 else b'"'
        if token in (b"[", b"{"):
            open_brackets.append(token)
            if len(open_brackets) > _HOPELESS_DEPTH:
                raise PayloadError("too_deep", f"nested deeper than {_HOPELESS_DEPTH} levels")
        elif token in _CLOSES:
            if not open_brackets or open_brackets.pop() != _CLOSES[token]:
                raise _unbalanced(match.start())
            if not open_brackets:
                elements.append(text[start : match.start()])
                if match.end() != len(text):
                    raise PayloadError(
                        "not_json", f"text after the end of the array at byte {match.end()}"
                    )
        elif token == b"," and len(open_brackets) == 1:
            elements.append(text[start : match.start()])
            start = match.end()
    if open_brackets:
        raise _unbalanced(len(text))
    return elements if len(elements) > 1 or elements[0].strip(_BLANK) else []


def split_lines(body: bytes) -> list[bytes]:
    """Lines of an NDJSON body; blank lines are dropped."""
    return [line for line in body.split(b"\n") if line.strip(_BLANK)]


def too_deep(element: bytes, limit: int) -> bool:
    """Whether brackets of `element` nest deeper than `limit`."""
    if element.count(b"[") + element.count(b"{") <= limit:
        return False
    depth = 0
    for match in _TOKEN.finditer(element):
        token = match.group() if match.end() - match.start() == 1 else b'"'
        if token in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif token in _CLOSES:
            depth -= 1
    return False


def _unbalanced(position: int) -> PayloadError:
    return PayloadError(
        "not_json", f"the body is not JSON: brackets do not pair up at byte {position}"
    )
