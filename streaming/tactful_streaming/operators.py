"""One operator for each sequence and join of the definitions."""

from __future__ import annotations

from tactful_streaming.actions import emitted_types
from tactful_streaming.definitions import Definitions
from tactful_streaming.errors import DefinitionError
from tactful_streaming.joins import JoinOperator
from tactful_streaming.matches import Operator
from tactful_streaming.sequences import SequenceOperator


def make_operators(definitions: Definitions) -> tuple[Operator, ...]:
    """Make the operators of `definitions`, in the order written: sequences, then joins.

    Raises:
        DefinitionError: if a sequence is too large for an automaton, or actions cause each other.
    """
    _check_cycles(definitions)
    sequences = [SequenceOperator(sequence) for sequence in definitions.sequences]
    joins = [JoinOperator(join) for join in definitions.joins]
    return (*sequences, *joins)


def _check_cycles(definitions: Definitions) -> None:
    """Refuse actions that lead to themselves: the log would grow by itself, forever."""
    emits = emitted_types(definitions)
    takes: dict[str, set[str]] = {join.name: set(join.events) for join in definitions.joins}
    for sequence in definitions.sequences:
        positive = [step for step in sequence.steps if not step.negated]
        every = any(not step.events for step in positive)
        named = {type_ for step in positive for type_ in step.events}
        takes[sequence.name] = set(emits.values()) if every else named
    causes = {
        name: [other for other in emits if type_ in takes[other]] for name, type_ in emits.items()
    }
    for name in emits:
        reached, waiting = set[str](), list(causes[name])
        while waiting:
            follower = waiting.pop()
            if follower not in reached:
                reached.add(follower)
                waiting += causes[follower]
        if name in reached:
            line = definitions.lines.get(name)
            place = "features" if line is None else f"features:{line}"
            raise DefinitionError(
                f"{place}: emit: the action {emits[name]} of {name} leads to {name} again, without "
                "end: emit another type, or name the types of the steps instead of any"
            )
