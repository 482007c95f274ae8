"""One operator for each sequence and join of the definitions."""

from __future__ import annotations

from tactful_streaming.definitions import Definitions
from tactful_streaming.joins import JoinOperator
from tactful_streaming.matches import Operator
from tactful_streaming.sequences import SequenceOperator


def make_operators(definitions: Definitions) -> tuple[Operator, ...]:
    """Make the operators of `definitions`, in the order written: sequences, then joins.

    Raises:
        DefinitionError: if a sequence is too large for an automaton.
    """
    sequences = [SequenceOperator(sequence) for sequence in definitions.sequences]
    joins = [JoinOperator(join) for join in definitions.joins]
    return (*sequences, *joins)
