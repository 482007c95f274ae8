r"""Regular expressions that match the same in Python and in JavaScript, in linear time.

The two languages share most of their syntax, but not its meaning: `\d` and `\w` cover Unicode in
Python and ASCII in JavaScript, `$` also matches before a last line break in Python. A pattern of
the common subset is translated for RE2 so that it matches what JavaScript matches with the flag
`u`. RE2 takes time linear in the length of the text; clients choose the text, and backtracking
takes 2ⁿ steps on n letters for `(a+)+b`. Other syntax (look-around, named groups, inline flags,
back references, possessive quantifiers, Unicode properties) is refused in definitions.

Source of the meaning: ECMAScript 2024, RegExp patterns in Unicode mode.
"""

import functools
import re

import re2

from tactful_bandits.errors import DefinitionError

# White space and line terminators of ECMAScript, for use within a class.
_SPACE = (
    r"\t\n\v\f\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
)
_SETS = {"d": "0-9", "w": "A-Za-z0-9_", "s": _SPACE}
_PUNCTUATION = frozenset("^$\\.*+?()[]{}|/")
_MEMORY = 1 << 20
# RE2's word boundary is ASCII in every mode, JavaScript's folds these two letters. A lone surrogate
# cannot be encoded; it becomes a character that no pattern names.
_FOLDED = {0x17F: "s", 0x212A: "k"}
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(
    r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[^xu])"  # an escape
    r"|\(\?:|\((?!\?)|[)|^$.]"  # groups and anchors
    r"|(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})(?![*+]|\{)\??"  # a quantifier, possibly lazy
    r"|\[(?:\\.|[^\]\\])+\]"  # a class
    r"|[^\\()|^$.*+?{}\[\]]",  # a character
    re.DOTALL,
)


def search(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """Return whether a pattern matches anywhere in a text; a wrong pattern matches nothing.

    A pattern outside the common subset, which definitions refuse, keeps Python's meaning.
    """
    if not text.isascii():
        text = _LONE_SURROGATES.sub("\uf8f2", text)
        text = text.translate(_FOLDED) if ignore_case else text
    compiled = _compile(pattern, ignore_case)
    return compiled is not None and compiled.search(text) is not None


def require_portable_pattern(where: str, pattern: object) -> None:
    """Validate that a pattern means the same in Python and in JavaScript.

    Raises:
        DefinitionError: It is no text, no regular expression, too large, or uses other syntax; the
            message names the place and the part.
    """
    if not isinstance(pattern, str):
        raise DefinitionError(f"{where}: a regular expression is a text, not {pattern!r}; quote it")
    try:
        _compile_portable(pattern, ignore_case=True)
    except DefinitionError as error:
        raise DefinitionError(f"{where}: {error}") from error


@functools.lru_cache(maxsize=1024)
def _compile(pattern: str, ignore_case: bool) -> "re.Pattern[str] | None":
    try:
        return _compile_portable(pattern, ignore_case=ignore_case)
    except DefinitionError:
        try:
            return re.compile(pattern, re.IGNORECASE if ignore_case else re.NOFLAG)
        except (re.error, OverflowError):
            return None


def _compile_portable(pattern: str, *, ignore_case: bool) -> "re.Pattern[str]":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    options.case_sensitive = not ignore_case
    translated = _translate(pattern.translate(_FOLDED) if ignore_case else pattern)
    try:
        compiled: re.Pattern[str] = re2.compile(translated, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8", "replace")
        raise DefinitionError(f"not a regular expression, or too large: {reason}") from error
    return compiled


def _translate(pattern: str) -> str:
    """Translate a JavaScript pattern of the common subset into RE2's."""
    parts = []
    repeatable = False
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        quantifier = token is not None and token[0][0] in "*+?{"
        if token is None or (quantifier and not repeatable):
            raise DefinitionError(
                f"{pattern[at : at + 5]!r} means different things in Python and JavaScript, or can "
                "take very long; use characters, classes, groups (?:…), and escape { } [ ] as text"
            )
        assertion = token[0] in ("^", "$", "|", r"\b", r"\B") or token[0].startswith("(")
        repeatable = not (quantifier or assertion)
        parts.append(_translated(token[0]))
        at = token.end()
    return "".join(parts)


def _translated(token: str) -> str:
    if token == "$":
        return r"\z"
    if token == ".":
        return r"[^\n\r\x{2028}\x{2029}]"
    if token.startswith("\\"):
        return _escape(token)
    if token.startswith("[") and len(token) > 1:
        return _class(token)
    return _literal(token) if len(token) == 1 else token


def _literal(character: str) -> str:
    return "\\x{f8f2}" if "\ud800" <= character <= "\udfff" else character


def _escape(token: str) -> str:
    letter = token[1]
    if letter in _SETS:
        return f"[{_SETS[letter]}]"
    if letter.lower() in _SETS:
        return f"[^{_SETS[letter.lower()]}]"
    return token if letter in "bB" else _character(token)


def _character(token: str) -> str:
    letter = token[1]
    if letter in "xu" and len(token) > 2:
        return _literal(chr(int(token[2:], 16))) if len(token) > 4 else f"\\x{{{token[2:]}}}"
    if letter in "nrtfv":
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
            parts.append(piece if piece == "-" or not piece.isascii() else re.escape(piece))
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
    return f"[{'^' if negated else ''}{''.join(map(_literal, parts))}]"
