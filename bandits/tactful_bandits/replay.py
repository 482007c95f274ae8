"""What an agent has lived through, in a ring that may lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError

Floats32 = NDArray[np.float32]


class Batch(NamedTuple):
    """Transitions, the first axis of each array the batch."""

    states: Floats32
    actions: Floats32
    rewards: Floats32
    next_states: Floats32
    terminated: Floats32


class Replay:
    """A ring of transitions.

    What is stored is whether an episode *terminated*. One that was merely cut off goes on as far as
    values are concerned.

    Attributes:
        capacity: How many are kept.
        added: How many were ever added.
    """

    def __init__(
        self, states: int, actions: int, *, capacity: int = 100_000, path: Path | None = None
    ) -> None:
        """Make a ring, or open the one at `path`.

        Args:
            states: Length of a state.
            actions: Length of an action.
            capacity: At least 1.
            path: File of its own; None: in memory.

        Raises:
            PolicyError: The sizes are not positive, or the file has another size.
        """
        if states < 1 or actions < 1 or capacity < 1:
            raise PolicyError("a replay needs states, actions and room for at least one transition")
        self.capacity, self.added = capacity, 0
        self._cuts = np.cumsum([states, actions, 1, states])
        shape = (capacity, 2 * states + actions + 2)
        if path is None:
            self._rows: Floats32 = np.zeros(shape, dtype=np.float32)
            return
        size = 4 * shape[0] * shape[1]
        if path.exists() and path.stat().st_size != size:
            raise PolicyError(f"{path} holds {path.stat().st_size} bytes, not {size}: of other use")
        mode = "r+" if path.exists() else "w+"
        self._rows = np.memmap(path, dtype=np.float32, mode=mode, shape=shape)  # type: ignore[call-overload]

    def __len__(self) -> int:
        """How many can be drawn."""
        return min(self.added, self.capacity)

    def add(
        self,
        state: ArrayLike,
        action: ArrayLike,
        reward: float,
        next_state: ArrayLike,
        terminated: bool,
    ) -> None:
        """Add a transition, in place of the oldest where the ring is full."""
        row = np.concatenate([state, action, [reward], next_state, [terminated]])
        self._rows[self.added % self.capacity] = row
        self.added += 1

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions with replacement.

        Raises:
            PolicyError: There are none.
        """
        if not self.added:
            raise PolicyError("an empty replay has nothing to draw")
        rows = np.asarray(self._rows[rng.integers(0, len(self), size)])
        states, actions, rewards, next_states, terminated = np.split(rows, self._cuts, axis=1)
        return Batch(states, actions, rewards[:, 0], next_states, terminated[:, 0])

    def all(self) -> Batch:
        """All transitions, in no order."""
        rows = np.asarray(self._rows[: len(self)])
        states, actions, rewards, next_states, terminated = np.split(rows, self._cuts, axis=1)
        return Batch(states, actions, rewards[:, 0], next_states, terminated[:, 0])

    @property
    def latest(self) -> Floats32:
        """The row that was added last; zeros before the first."""
        row: Floats32 = np.array(self._rows[(self.added - 1) % self.capacity])
        return row

    def resume(self, added: int, latest: Floats32) -> None:
        """Count on from where a ring was left that now lies in the file.

        Args:
            added: As it was then.
            latest: As it was then.

        Raises:
            PolicyError: The ring holds another transition there: it is of another run, was in
                memory, or went around once since.
        """
        if added and not np.array_equal(self._rows[(added - 1) % self.capacity], latest):
            raise PolicyError(
                "the replay is not the one that was saved: give the file that the agent had"
            )
        self.added = added

    def flush(self) -> None:
        """Write what lies in memory to the file."""
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
