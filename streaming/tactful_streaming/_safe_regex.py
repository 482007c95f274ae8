"""Regular expressions whose worst case is bounded, whatever text is matched.

Python's engine backtracks: ``(a+)+b`` takes 2ⁿ steps on n letters *a*, and whoever sends events
chooses the text. So a pattern is admitted only if the steps of its worst case, counted on its parse
tree, stay below a limit. The count is an upper bound: a repeat multiplies the ways to match only
where the character after it could also be one more turn of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple

TEXT_LIMIT: Final = 512
"""Characters of a text that are looked at."""

_PATTERN_LIMIT = 1024
_STEP_LIMIT = 2_000_000
_KNOWN = 384
_OTHER = _KNOWN  # stands for every character from here on

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_REFUSED = {
    _constants.ASSERT: "a look-ahead or look-behind",
    _constants.ASSERT_NOT: "a look-ahead or look-behind",
    _constants.GROUPREF: "a back-reference",
    _constants.GROUPREF_EXISTS: "a conditional group",
    _constants.POSSESSIVE_REPEAT: "a possessive repeat",
    _constants.ATOMIC_GROUP: "an atomic group",
}
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}

_Characters = frozenset[int]
_Node = tuple[Any, Any]


def compile_safely(pattern: str) -> re.Pattern[str]:
    """Compile `pattern`, to be searched in at most :data:`TEXT_LIMIT` characters.

    Raises:
        ValueError: if it is no regular expression, or its worst case is too slow.
    """
    if not pattern:
        raise ValueError("the pattern is empty and would match everything")
    if len(pattern) > _PATTERN_LIMIT:
        raise ValueError(f"the pattern is longer than {_PATTERN_LIMIT} characters")
    try:
        tree = _parser.parse(pattern)
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    nodes = list(tree)
    flags = tree.state.flags
    cost = _Analysis(bool(flags & re.IGNORECASE)).sequence(nodes, frozenset())
    starts = 1 if _anchored(nodes) and not flags & re.MULTILINE else TEXT_LIMIT
    if starts * cost.steps > _STEP_LIMIT:
        raise ValueError(
            f"in the worst case the pattern takes over {_STEP_LIMIT:,} steps on a text of "
            f"{TEXT_LIMIT} characters: use fewer open repeats (* + {{n,}}), none within another, "
            "or anchor it with ^"
        )
    return compiled


class _Cost(NamedTuple):
    """Upper bounds for a match from one starting point.

    Attributes:
        ways: different ways to match.
        steps: work to try them all.
    """

    ways: int
    steps: int


_ONE = _Cost(1, 1)
_HOPELESS = _Cost(_STEP_LIMIT + 1, _STEP_LIMIT + 1)


class _Analysis:
    """Counts the steps of a parse tree."""

    def __init__(self, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def sequence(self, nodes: Sequence[_Node], after: _Characters) -> _Cost:
        """Cost of `nodes` in a row when one of `after` follows; empty: nothing follows."""
        ways, steps = 1, 1
        for place, node in enumerate(nodes):
            cost = self._node(node, self._first(nodes[place + 1 :], after))
            steps += ways * cost.steps
            ways *= cost.ways
            if steps > _STEP_LIMIT:
                return _HOPELESS
        return _Cost(ways, steps)

    def _node(self, node: _Node, after: _Characters) -> _Cost:
        operation, argument = node
        if operation in _REFUSED:
            raise ValueError(f"{_REFUSED[operation]} is not supported")
        if operation is _constants.SUBPATTERN:
            return self.sequence(list(argument[3]), after)
        if operation is _constants.BRANCH:
            return self._branch(argument[1], after)
        if operation in _REPEATS:
            return self._repeat(argument, after)
        return _ONE

    def _branch(self, alternatives: Sequence[Sequence[_Node]], after: _Characters) -> _Cost:
        costs = [self.sequence(list(nodes), after) for nodes in alternatives]
        firsts = [self._first(list(nodes), after) for nodes in alternatives]
        exclusive = all(a and b and not a & b for a, b in combinations(firsts, 2))
        ways = max(c.ways for c in costs) if exclusive else sum(c.ways for c in costs)
        return _Cost(ways, sum(cost.steps for cost in costs))

    def _repeat(self, argument: tuple[int, int, Any], after: _Characters) -> _Cost:
        least, most, body = argument
        nodes = list(body)
        turns = min(most, TEXT_LIMIT)
        first = self._first(nodes, frozenset())
        cost = self.sequence(nodes, first | after)
        if turns > 1 and (cost.ways > 1 or not first):
            # Each turn can be matched in several ways, or with nothing: they multiply.
            ways = max(cost.ways, 2)
            if turns > 20 or ways**turns > _STEP_LIMIT:
                return _HOPELESS
            return _Cost(ways**turns, ways**turns * cost.steps)
        ambiguous = bool(first & after)
        ways = turns - min(least, turns) + 1 if ambiguous else 1
        return _Cost(ways * cost.ways, max(turns, 1) * cost.steps)

    def _first(self, nodes: Sequence[_Node], after: _Characters) -> _Characters:
        """Characters that a match of `nodes` and what follows can begin with."""
        found: set[int] = set()
        for operation, argument in nodes:
            optional = False
            if operation is _constants.SUBPATTERN:
                inner = self._first(list(argument[3]), frozenset())
                optional = self._nullable(argument[3])
            elif operation is _constants.BRANCH:
                inner = frozenset().union(*(self._first(list(n), frozenset()) for n in argument[1]))
                optional = any(self._nullable(n) for n in argument[1])
            elif operation in _REPEATS:
                inner = self._first(list(argument[2]), frozenset())
                optional = argument[0] == 0 or self._nullable(argument[2])
            elif operation is _constants.AT or operation in _REFUSED:
                continue
            else:
                inner = self._characters(operation, argument)
            found |= inner
            if not optional:
                return frozenset(found)
        return frozenset(found) | after

    def _nullable(self, nodes: Sequence[_Node]) -> bool:
        for operation, argument in nodes:
            if operation is _constants.SUBPATTERN:
                empty = self._nullable(argument[3])
            elif operation is _constants.BRANCH:
                empty = any(self._nullable(alternative) for alternative in argument[1])
            elif operation in _REPEATS:
                empty = argument[0] == 0 or self._nullable(argument[2])
            else:
                empty = operation is _constants.AT or operation in _REFUSED
            if not empty:
                return False
        return True

    def _characters(self, operation: Any, argument: Any) -> _Characters:
        if operation is _constants.ANY:
            return _everything()
        if operation is _constants.NOT_LITERAL:
            return _everything() - frozenset(self._cases(argument) - {_OTHER})
        if operation is _constants.LITERAL:
            return frozenset(self._cases(argument))
        found: set[int] = set()
        negated = False
        for kind, value in argument:
            if kind is _constants.NEGATE:
                negated = True
            elif kind is _constants.LITERAL:
                found |= self._cases(value)
            elif kind is _constants.RANGE:
                for code in range(value[0], min(value[1], _KNOWN) + 1):
                    found |= self._cases(code)
                if value[1] >= _KNOWN:
                    found.add(_OTHER)
            else:
                found |= _category(value)
        return _everything() - (found - {_OTHER}) if negated else frozenset(found)

    def _cases(self, code: int) -> set[int]:
        texts = {chr(code)}
        if self._ignore_case:
            texts |= {chr(code).lower(), chr(code).upper()}
        return {min(ord(text), _OTHER) for text in texts if len(text) == 1}


@cache
def _everything() -> _Characters:
    return frozenset(range(_OTHER + 1))


@cache
def _category(category: Any) -> _Characters:
    one = re.compile(_CATEGORIES[category])
    return frozenset({_OTHER, *(code for code in range(_KNOWN) if one.match(chr(code)))})


def _anchored(nodes: Sequence[_Node]) -> bool:
    """Whether a match can only begin where the text does."""
    for operation, argument in _unwrapped(nodes):
        return operation is _constants.AT and argument in (
            _constants.AT_BEGINNING,
            _constants.AT_BEGINNING_STRING,
        )
    return False


def _unwrapped(nodes: Sequence[_Node]) -> Iterator[_Node]:
    for operation, argument in nodes:
        if operation is _constants.SUBPATTERN:
            yield from _unwrapped(list(argument[3]))
        else:
            yield operation, argument
