"""Mutants: copies of a module that differ in one operator, constant or condition.

The operators are those of cosmic-ray, applied to parso trees. Annotations and decorators are left
out: a change there is no change of behaviour, or fails at import.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.operators import (
    binary_operator_replacement,
    comparison_operator_replacement,
    unary_operator_replacement,
)
from cosmic_ray.operators.boolean_replacer import (
    AddNot,
    ReplaceAndWithOr,
    ReplaceFalseWithTrue,
    ReplaceOrWithAnd,
    ReplaceTrueWithFalse,
)
from cosmic_ray.operators.break_continue import (
    ReplaceBreakWithContinue,
    ReplaceContinueWithBreak,
)
from cosmic_ray.operators.exception_replacer import ExceptionReplacer
from cosmic_ray.operators.number_replacer import NumberReplacer
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.zero_iteration_for_loop import ZeroIterationForLoop

# Replacements that stay within the type of the operands: others fail at once and show nothing.
_BINARY = {
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Mul",
    "Mod_FloorDiv",
    "Pow_Mul",
    "LShift_RShift",
    "RShift_LShift",
    "BitAnd_BitOr",
    "BitOr_BitAnd",
    "BitXor_BitOr",
}
_UNARY = {"Delete_Not", "Delete_USub", "Delete_Invert"}


def _kind(operator: type[Operator]) -> str:
    """`Add_Sub` for `ReplaceBinaryOperator_Add_Sub`."""
    return operator.__name__.partition("_")[2]


_OPERATORS: Sequence[type[Operator]] = (
    *(kind for kind in binary_operator_replacement.operators() if _kind(kind) in _BINARY),
    *(kind for kind in unary_operator_replacement.operators() if _kind(kind) in _UNARY),
    *(
        kind
        for kind in comparison_operator_replacement.operators()
        if ("Is" in _kind(kind)) == (_kind(kind) in {"Is_IsNot", "IsNot_Is"})
    ),
    AddNot,
    ReplaceAndWithOr,
    ReplaceOrWithAnd,
    ReplaceTrueWithFalse,
    ReplaceFalseWithTrue,
    ReplaceBreakWithContinue,
    ReplaceContinueWithBreak,
    ExceptionReplacer,
    NumberReplacer,
    ZeroIterationForLoop,
)

# Nodes of a parso tree that some operator changes; of leaves the type and the text.
_NODES = {
    "assert_stmt",
    "comparison",
    "except_clause",
    "factor",
    "for_stmt",
    "if_stmt",
    "not_test",
    "number",
    "test",
    "while_stmt",
}
_LEAVES = {
    "operator": {"+", "-", "*", "/", "//", "%", "**", ">>", "<<", "|", "&", "^"},
    "keyword": {"True", "False", "and", "or", "break", "continue"},
}
_UNARY_PARENTS = {"argument", "factor", "import_from", "star_expr"}


@dataclass(frozen=True)
class Place:
    """One node of a module that operators can change.

    Attributes:
        path: file of the module.
        module: dotted name of the module.
        function: qualified name of the function around the node; empty at module level.
        text: line of source on which the node begins, without indentation.
        number: position of the node among those of the same function and text, from 1.
        index: position of the node in a walk through the tree.
        lines: numbers of the lines from the beginning of the statement to the node.
        at_import: whether the node runs when the module is imported.
    """

    path: Path
    module: str
    function: str
    text: str
    number: int
    index: int
    lines: range
    at_import: bool


@dataclass(frozen=True)
class Mutant:
    """One change of one place.

    Attributes:
        id: ``module:function:operator:line of source#number``, the same while these stay.
        place: what is changed.
        source: text of the mutated module.
        change: the lines that differ, before and after.
    """

    id: str
    place: Place
    source: str
    change: str


def places(path: Path, module: str) -> list[Place]:
    """List what can be mutated in a module, in the order of the source."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    counts: Counter[tuple[str, str]] = Counter()
    result = []
    for index, node in enumerate(_walk(_parse(source))):
        if not _is_changeable(node):
            continue
        line = node.start_pos[0]
        text = lines[line - 1].strip()
        function, at_import = _scope(node)
        counts[function, text] += 1
        number = counts[function, text]
        run = range(_statement_line(node), line + 1)
        result.append(Place(path, module, function, text, number, index, run, at_import))
    return result


def sample(
    all_places: Sequence[Place], count: int, seed: int, left_out: Container[str] = ()
) -> list[Mutant]:
    """Draw mutants, at most one of a place.

    The rank of a place is a hash of the seed and its name, so that the sample changes little when
    the code does.

    Args:
        all_places: where to mutate.
        count: the number of mutants; fewer come when the places run out.
        seed: another seed draws another sample.
        left_out: ids of equivalent mutants, which are not drawn.
    """

    def rank(text: str) -> bytes:
        return hashlib.sha256(f"{seed}:{text}".encode()).digest()

    def name(place: Place) -> str:
        return f"{place.module}:{place.function}:{place.text}#{place.number}"

    result: list[Mutant] = []
    for place in sorted(all_places, key=lambda place: rank(name(place))):
        if len(result) == count:
            break
        changes = [change for change in _changes(place) if change.id not in left_out]
        changes.sort(key=lambda change: rank(change.id))
        mutants = filter(None, map(_mutant, changes))
        result += islice(mutants, 1)
    return result


@dataclass(frozen=True)
class _Change:
    """One of the changes that an operator can make at a place."""

    id: str
    place: Place
    operator: type[Operator]
    index: int


def _changes(place: Place) -> Iterator[_Change]:
    node = _node(place.path.read_text(encoding="utf-8"), place.index)
    for operator in _OPERATORS:
        for index, _ in enumerate(operator().mutation_positions(node)):
            name = operator.__name__ + (f".{index}" if index else "")
            id = f"{place.module}:{place.function}:{name}:{place.text}#{place.number}"
            yield _Change(id, place, operator, index)


def _mutant(change: _Change) -> Mutant | None:
    """Apply a change; None when it fails, does not compile or means the same."""
    source = change.place.path.read_text(encoding="utf-8")
    node = _node(source, change.place.index)
    try:
        changed = change.operator().mutate(node, change.index)
    except AttributeError:  # cosmic-ray 8 replaces no `module.Error` in a tuple of exceptions
        return None
    if changed is not node:
        siblings = node.parent.children
        siblings[siblings.index(node)] = changed
    mutated = node.get_root_node().get_code()
    try:
        compile(mutated, str(change.place.path), "exec")
    except SyntaxError:
        return None
    if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source)):
        return None
    return Mutant(change.id, change.place, mutated, _difference(source, mutated))


def _parse(source: str) -> Any:
    return parso.parse(source)  # type: ignore[no-untyped-call]


def _node(source: str, index: int) -> Any:
    """The node at a position of the walk, in a tree of its own that may be changed."""
    return next(islice(_walk(_parse(source)), index, None))


def _walk(node: Any) -> Iterator[Any]:
    """Yield the nodes of a tree without annotations and decorators."""
    yield node
    for place, child in enumerate(getattr(node, "children", ())):
        annotation = (
            (node.type == "annassign" and place == 1)
            or (node.type == "tfpdef" and place == 2)
            or (node.type == "funcdef" and child is node.annotation)
        )
        signs = node.type == "parameters" and child.type == "operator"  # `*` and `/` alone
        if not annotation and not signs and child.type != "decorator":
            yield from _walk(child)


def _is_changeable(node: Any) -> bool:
    if node.type not in _LEAVES:
        return node.type in _NODES
    return node.value in _LEAVES[node.type] and node.parent.type not in _UNARY_PARENTS


def _scope(node: Any) -> tuple[str, bool]:
    """The qualified name of the function around a node, and whether it runs at import."""
    names: list[str] = []
    at_import = True
    child, parent = node, node.parent
    while parent is not None:
        if parent.type in {"funcdef", "classdef"}:
            names.append(parent.name.value)
            if parent.type == "funcdef" and child is parent.children[-1]:
                at_import = False
        elif parent.type == "lambdef" and child is parent.children[-1]:
            at_import = False
        child, parent = parent, parent.parent
    return ".".join(reversed(names)), at_import


def _statement_line(node: Any) -> int:
    """The first line of the statement that a node belongs to."""
    while node.parent is not None and node.parent.type not in {"suite", "file_input"}:
        node = node.parent
    line: int = node.start_pos[0]
    return line


def _difference(before: str, after: str) -> str:
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    old, new = next((old, new) for old, new in pairs if old != new)
    return f"- {old.strip()}\n+ {new.strip()}"
