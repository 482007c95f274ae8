"""Objective weights that a trained network sets by the situation of the shop, within bounds.

A directory holds ``policy.bin`` (the network, see `tactful_bandits.NetworkPolicy`), ``tuner.json``
(how far weights may go, what the network is told, how it was trained) and, kept up to date by
whoever runs the shop, ``signals.json``: what is known of the shop now. Where a signal is missing or
old, or the network was not trained on such a state, the weights are those of everybody else: a
tuner that knows nothing changes nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np

from tactful.errors import ConfigError
from tactful.objective import Objective
from tactful_bandits import NetworkPolicy, PolicyError, WeightBounds

POLICY = "policy.bin"
MANIFEST = "tuner.json"
SIGNALS = "signals.json"

_DAY_MS = 86_400_000
_LOOK_MS = 5_000


class TunerManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What comes with a network.

    Attributes:
        champion: weights that action 0 stands for, summing to 1.
        reach: the largest change of one of them.
        objectives: what is weighed, in the order of the weights.
        state: what the network is told, in this order. ``hour_sine`` and ``hour_cosine`` are of the
            UTC time of day; all else is read from the signals.
        trained_in: where it learnt; ``simulator`` says nothing about people.
        figures: what was measured there.
        signals_minutes: signals that are older count as missing.
    """

    champion: tuple[float, ...]
    reach: float
    objectives: tuple[str, ...]
    state: tuple[str, ...]
    trained_in: str
    figures: dict[str, float] = {}
    signals_minutes: float = 60.0


class _Signals(msgspec.Struct, frozen=True):
    at: int
    values: dict[str, float]


class Tuner:
    """A trained tuner, ready to be asked; some microseconds a time."""

    def __init__(self, directory: Path) -> None:
        """Read what was trained.

        Raises:
            ConfigError: if it is not there, is damaged, or its parts do not fit each other.
        """
        self._signals_path = directory / SIGNALS
        try:
            self.manifest = msgspec.json.decode(
                (directory / MANIFEST).read_bytes(), type=TunerManifest
            )
            self._network = NetworkPolicy.from_bytes((directory / POLICY).read_bytes())
            about = self.manifest
            self._bounds = WeightBounds(about.champion, reach=about.reach)
        except (OSError, msgspec.DecodeError, PolicyError) as error:
            raise ConfigError(f"{directory}: no tuner can be read here: {error}") from error
        widths = len(about.champion), len(about.objectives), self._network.actions
        if len({*widths}) > 1 or len(about.state) != len(self._network.mean):
            raise ConfigError(f"{directory}: the network and {MANIFEST} do not fit each other")
        unknown = [it for it in about.objectives if not hasattr(Objective(), it)]
        if unknown:
            raise ConfigError(f"{directory}: there are no objectives {', '.join(unknown)}")
        self._signals: _Signals | None = None
        self._looked_at = -_LOOK_MS

    def objective(self, at: int) -> Objective | None:
        """The weights at a time; None where the champion's hold.

        Args:
            at: epoch milliseconds.
        """
        state = self._state(at)
        if state is None or not self._network.covers(state):
            return None
        weights = self._bounds.weights(self._network.act(state))
        return Objective(**dict(zip(self.manifest.objectives, map(float, weights), strict=True)))

    def _state(self, at: int) -> np.ndarray[tuple[int], np.dtype[np.float32]] | None:
        if not 0 <= at - self._looked_at < _LOOK_MS:
            self._looked_at = at
            self._signals = self._read()
        signals = self._signals
        oldest = self.manifest.signals_minutes * 60_000
        known = {} if signals is None or not 0 <= at - signals.at <= oldest else signals.values
        angle = 2 * math.pi * (at % _DAY_MS) / _DAY_MS
        known = {**known, "hour_sine": math.sin(angle), "hour_cosine": math.cos(angle)}
        if any(name not in known for name in self.manifest.state):
            return None
        return np.array([known[name] for name in self.manifest.state], np.float32)

    def _read(self) -> _Signals | None:
        try:
            return msgspec.json.decode(self._signals_path.read_bytes(), type=_Signals)
        except (OSError, msgspec.DecodeError):
            return None
