"""Creates one operator for each sequence and join."""

from __future__ import annotations

from tactful_streaming.definitions.model import Definitions, endless_action
from tactful_streaming.errors import DefinitionError
from tactful_streaming.patterns.join_operator import JoinOperator
from tactful_streaming.patterns.match import Operator
from tactful_streaming.patterns.sequence_operator import SequenceOperator


def make_operators(definitions: Definitions) -> tuple[Operator, ...]:
    """Create the operators of `definitions`: sequences, then joins, each as written.

    Raises:
        DefinitionError: a sequence is too large for an automaton, or actions cause each other. The
            reader of a text refuses such definitions before, with their line.
    """
    if (endless := endless_action(definitions)) is not None:
        raise DefinitionError(endless[1])
    sequences = [SequenceOperator(sequence) for sequence in definitions.sequences]
    joins = [JoinOperator(join) for join in definitions.joins]
    return (*sequences, *joins)
