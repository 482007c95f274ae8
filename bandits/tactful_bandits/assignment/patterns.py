r"""Regular expressions that match the same in Python and in JavaScript.

The two languages share most of their syntax, but not its meaning: `\d` and `\w` cover Unicode in
Python and ASCII in JavaScript, `$` also matches before a last line break in Python. A pattern of
the common subset is translated into the Python pattern that matches what JavaScript matches with
the flag `u`; other syntax (named groups, look-behind, inline flags, back references, possessive
quantifiers, Unicode properties) is refused in definitions.

Source of the meaning: ECMAScript 2024, RegExp patterns in Unicode mode.
"""

import functools
import re

from tactful_bandits.errors import DefinitionError

_DIGIT = "0-9"
_WORD = "A-Za-z0-9_"
# White space and line terminators of ECMAScript, for use within a class.
_SPACE = r"\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_SETS = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_BOUNDARY = f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))"
_INSIDE_WORD = f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))"
# Python takes these two as the letter i when it ignores case, JavaScript does not.
_UNFOLDED = {0x130: 0xF8F0, 0x131: 0xF8F1}
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/")
_TOKEN = re.compile(
    r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[^xu])"  # an escape
    r"|\(\?[:=!]|\((?!\?)|[)|^$.]"  # groups and anchors
    r"|(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})(?![*+]|\{)\??"  # a quantifier, possibly lazy
    r"|\[(?:\\.|[^\]\\])+\]"  # a class
    r"|[^\\()|^$.*+?{}\[\]]",  # a character
    re.DOTALL,
)


def search(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """Return whether a pattern matches anywhere in a text; a wrong pattern matches nothing."""
    if ignore_case:
        pattern, text = pattern.translate(_UNFOLDED), text.translate(_UNFOLDED)
    compiled = _compile(pattern, ignore_case)
    return compiled is not None and compiled.search(text) is not None


@functools.lru_cache(maxsize=1024)
def _compile(pattern: str, ignore_case: bool) -> re.Pattern[str] | None:
    """Compile a pattern; one outside the common subset keeps Python's meaning."""
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    try:
        return re.compile(_translate(pattern), flags)
    except (DefinitionError, re.error, OverflowError):
        try:
            return re.compile(pattern, flags)
        except (re.error, OverflowError):
            return None


def require_portable_pattern(where: str, pattern: object) -> None:
    """Validate that a pattern means the same in Python and in JavaScript.

    Raises:
        DefinitionError: It is no text, no regular expression, or uses other syntax; the message
            names the place and the part.
    """
    if not isinstance(pattern, str):
        raise DefinitionError(f"{where}: a regular expression is a text, not {pattern!r}; quote it")
    try:
        re.compile(_translate(pattern))
    except DefinitionError as error:
        raise DefinitionError(f"{where}: {error}") from error
    except (re.error, OverflowError) as error:
        raise DefinitionError(f"{where}: not a regular expression: {error}") from error


def _translate(pattern: str) -> str:
    """Translate a JavaScript pattern of the common subset into Python's."""
    parts = []
    open_groups: list[bool] = []  # whether each open group is a look-ahead
    repeatable = False
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        quantifier = token is not None and token[0][0] in "*+?{"
        if token is None or (quantifier and not repeatable):
            raise DefinitionError(
                f"{pattern[at : at + 5]!r} means different things in Python and JavaScript; use "
                "characters, classes, groups (?:…), (?=…), (?!…), and escape { } [ ] as text"
            )
        if token[0].startswith("("):
            open_groups.append(token[0] in ("(?=", "(?!"))
        look_ahead = token[0] == ")" and bool(open_groups) and open_groups.pop()
        assertion = token[0] in ("^", "$", "|", r"\b", r"\B") or token[0].startswith("(")
        repeatable = not (quantifier or look_ahead or assertion)
        parts.append(_translated(token[0]))
        at = token.end()
    return "".join(parts)


def _translated(token: str) -> str:
    if token == "$":
        return r"\Z"
    if token == ".":
        return r"[^\n\r\u2028\u2029]"
    if token.startswith("\\"):
        return _escape(token)
    if token.startswith("[") and len(token) > 1:
        return _class(token)
    return token


def _escape(token: str) -> str:
    letter = token[1]
    if letter in _SETS:
        return f"[{_SETS[letter]}]"
    if letter.lower() in _SETS:
        return f"[^{_SETS[letter.lower()]}]"
    if letter in "bB":
        return _BOUNDARY if letter == "b" else _INSIDE_WORD
    return _character(token)


def _character(token: str) -> str:
    letter = token[1]
    if letter in "nrtfvxu" and len(token) != 3:
        return token
    if letter in _PUNCTUATION:
        return re.escape(letter)
    raise DefinitionError(f"escape {token!r} means different things in Python and JavaScript")


def _class(token: str) -> str:
    content = token[1:-1]
    negated = content.startswith("^")
    parts = []
    for piece in re.findall(
        r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\.|.", content[negated:], re.DOTALL
    ):
        if not piece.startswith("\\"):
            parts.append("-" if piece == "-" else re.escape(piece))
        elif piece[1] in _SETS:
            parts.append(_SETS[piece[1]])
        elif piece == r"\-":
            parts.append(piece)
        else:
            parts.append(_character(piece))
    if not parts:
        raise DefinitionError(f"class {token!r} is empty; name its characters")
    if re.search(r"\\[dws]-[^\]]|.-\\[dws]", content):
        raise DefinitionError(f"class {token!r} has a range that ends in a set; escape the hyphen")
    return f"[{'^' if negated else ''}{''.join(parts)}]"
