"""Replay buffer: a ring of transitions in memory or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError

Floats32 = NDArray[np.float32]


class Batch(NamedTuple):
    """Transitions; the first axis of each array is the batch."""

    states: Floats32
    actions: Floats32
    rewards: Floats32
    next_states: Floats32
    terminated: Floats32


class Replay:
    """Ring buffer of transitions.

    One row is ``[state, action, reward, next_state, terminated]``. ``terminated`` is 0 for an
    episode that was only truncated, because values continue after truncation.
    """

    def __init__(
        self, states: int, actions: int, *, capacity: int = 100_000, path: Path | None = None
    ) -> None:
        """Create a buffer in memory, or open the file of this buffer alone at `path`.

        Raise PolicyError if the file has another size.
        """
        if states < 1 or actions < 1 or capacity < 1:
            raise PolicyError("states, actions and capacity of a replay must be at least 1")
        self.capacity, self.added = capacity, 0  # `added` includes overwritten transitions
        self._cuts = np.cumsum([states, actions, 1, states])
        shape = (capacity, 2 * states + actions + 2)
        if path is None:
            self._rows: Floats32 = np.zeros(shape, dtype=np.float32)
            return
        size = 4 * shape[0] * shape[1]
        if path.exists() and path.stat().st_size != size:
            raise PolicyError(f"{path} has {path.stat().st_size} bytes, not {size}: another file")
        mode = "r+" if path.exists() else "w+"
        self._rows = np.memmap(path, dtype=np.float32, mode=mode, shape=shape)  # type: ignore[call-overload]

    def __len__(self) -> int:
        """Return the number of transitions that can be drawn."""
        return min(self.added, self.capacity)

    def add(
        self,
        state: ArrayLike,
        action: ArrayLike,
        reward: float,
        next_state: ArrayLike,
        terminated: bool,
    ) -> None:
        """Add a transition; a full buffer overwrites its oldest."""
        row = np.concatenate([state, action, [reward], next_state, [terminated]])
        self._rows[self.added % self.capacity] = row
        self.added += 1

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions with replacement."""
        if not self.added:
            raise PolicyError("the replay is empty: add a transition before drawing")
        rows = np.asarray(self._rows[rng.integers(0, len(self), size)])
        states, actions, rewards, next_states, terminated = np.split(rows, self._cuts, axis=1)
        return Batch(states, actions, rewards[:, 0], next_states, terminated[:, 0])

    def all(self) -> Batch:
        """Return all transitions, in no order."""
        rows = np.asarray(self._rows[: len(self)])
        states, actions, rewards, next_states, terminated = np.split(rows, self._cuts, axis=1)
        return Batch(states, actions, rewards[:, 0], next_states, terminated[:, 0])

    @property
    def latest(self) -> Floats32:
        """The row added last; zeros before the first."""
        row: Floats32 = np.array(self._rows[(self.added - 1) % self.capacity])
        return row

    def resume(self, added: int, latest: Floats32) -> None:
        """Continue a saved buffer whose rows are in the file.

        `added` and `latest` are those when it was saved. Raise PolicyError if the latest row
        differs: the file belongs to another run, the buffer was in memory, or the row was
        overwritten since.
        """
        if added and not np.array_equal(self._rows[(added - 1) % self.capacity], latest):
            raise PolicyError(
                "the replay is not the one that was saved: give the file that the agent had"
            )
        self.added = added

    def flush(self) -> None:
        """Write pending changes to the file."""
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
