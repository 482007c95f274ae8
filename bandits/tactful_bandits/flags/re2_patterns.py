r"""RE2 patterns, as Unleash writes them, in the syntax that Python and JavaScript share."""

import re

from tactful_bandits.assignment.patterns import require_portable_pattern
from tactful_bandits.flags.conversion import Refusal

_NAMED = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r"\t ",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_TOKEN = re.compile(r"\\.|\[\^?(?:\[:[a-z]+:\]|\\.|[^\]\\])+\]|\(\?[=!<]|\(\?[a-z]+\)|.", re.DOTALL)


def translate_re2(pattern: str) -> tuple[str, bool]:
    """Return the shared pattern and whether it ignores case.

    Inline flags count from the beginning or directly after ``^``.

    Raises:
        Refusal: RE2 or the shared syntax has no such pattern.
        DefinitionError: The pattern is none.
    """
    tokens = _TOKEN.findall(pattern)
    flags = ""
    for token in [token for token in tokens[:2] if re.fullmatch(r"\(\?[ims]+\)", token)]:
        flags += token[2:-1]
        tokens.remove(token)
    if "m" in flags and ("^" in tokens[1:] or "$" in tokens[:-1]):
        raise Refusal(f"pattern {pattern!r} has ^ or $ within; write it without (?m)")
    translated = "".join(_translated(token, flags, pattern) for token in tokens)
    require_portable_pattern(f"pattern {pattern!r}", translated)
    return translated, "i" in flags


def _translated(token: str, flags: str, pattern: str) -> str:
    if token.startswith("(?") or re.fullmatch(r"\\[0-9]", token):
        raise Refusal(f"pattern {pattern!r}: RE2 has no {token}, so Unleash matches nothing")
    if token == ".":
        return r"(?:[^\n]|\n)" if "s" in flags else r"[^\n]"
    if "m" in flags and token in "^$":
        return r"(?:^|\n)" if token == "^" else r"(?:\n|$)"
    if token in (r"\s", r"\S"):
        return ("[" if token == r"\s" else "[^") + _NAMED["space"] + "]"
    if token.startswith("["):
        return re.sub(r"\[:([a-z]+):\]", lambda found: _NAMED.get(found[1], found[0]), token)
    return token
