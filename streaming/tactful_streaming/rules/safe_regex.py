"""Regular expressions matched by RE2, in time linear in the length of the text.

Clients choose the text, so it could stall a backtracking engine: Python's takes 2ⁿ steps for
``(a+)+b`` on n letters *a*. RE2 does not backtrack, and refuses patterns that need it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import re2

TEXT_LIMIT: Final = 512
"""Characters of a text that are searched."""

_PATTERN_LIMIT: Final = 1024
_MEMORY_LIMIT: Final = 1 << 20  # bytes; also bounds a search to about 10 ms

_REASONS: Final = {  # beginning of RE2's message: message to the author of a rule
    "invalid perl operator: (?=": "a look-ahead or look-behind is not supported",
    "invalid perl operator: (?!": "a look-ahead or look-behind is not supported",
    "invalid perl operator: (?<": "a look-ahead or look-behind is not supported",
    "invalid perl operator: (?>": "an atomic group is not supported",
    "invalid perl operator: (?(": "a conditional group is not supported",
    "invalid perl operator: (?P": "a back-reference is not supported",
    "bad repetition operator": "a possessive or double repeat is not supported",
    "invalid repetition size": "a repeat of over 1000 turns, nested ones multiplied, is too large",
    "pattern too large": "the pattern needs over 1 MiB of memory; use smaller repeats",
}


class Pattern(Protocol):
    """Compiled regular expression."""

    def search(self, text: bytes, /) -> Any:
        """Return a match anywhere in a UTF-8 text, None if there is none."""


def compile_safely(pattern: str) -> Pattern:
    """Compile `pattern`, to be searched in at most :data:`TEXT_LIMIT` characters.

    Raises:
        ValueError: it is empty, too long, or no regular expression of RE2.
    """
    if not pattern:
        raise ValueError("the pattern is empty and would match everything")
    if len(pattern) > _PATTERN_LIMIT:
        raise ValueError(f"the pattern is longer than {_PATTERN_LIMIT} characters")
    return compile_linear(pattern, _MEMORY_LIMIT)


def compile_linear(pattern: str, memory: int) -> Pattern:
    """Compile `pattern` with RE2 in `memory` bytes; raise ValueError if it refuses."""
    options = re2.Options()
    options.max_mem = memory
    options.never_capture = True
    options.log_errors = False
    try:
        compiled: Pattern = re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"no regular expression of RE2: {_reason(error.args[0])}") from error
    return compiled


def _reason(message: bytes | str) -> str:
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else message
    if text[:-1] == "invalid escape sequence: \\" and text[-1] in "123456789":
        return "a back-reference is not supported"
    for start, reason in _REASONS.items():
        if text.startswith(start):
            return f"{reason} ({text})"
    return text
