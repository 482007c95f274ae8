"""Objective weights that a trained network sets by the situation of the shop, within bounds.

A directory holds ``policy.bin`` (the network, see `tactful_bandits.NetworkPolicy`), ``tuner.json``
(how far weights may go, what the network is told, how it was trained) and, kept up to date by
whoever runs the shop, ``signals.json``: what is known of the shop now. Where a signal is missing or
old, or the network was not trained on such a state, the weights are those of everybody else: a
tuner that knows nothing changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from tactful.errors import ConfigError
from tactful.rerank.objective import Objective
from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.network import NetworkPolicy, gaussian_log_density
from tactful_bandits.tuner.weight_bounds import WeightBounds

POLICY = "policy.bin"
MANIFEST = "tuner.json"
SIGNALS = "signals.json"
EVALUATION = "evaluation.json"
"""What `tactful tuner evaluate` found."""

STATE, DRAWN, LOG_DENSITY = "tuner_state", "tuner_drawn", "tuner_log_density"
"""Properties of a logged list: what the tuner was told, what it drew, and with which density."""

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
        noise: standard deviation of what is added by chance to each action; 0 adds nothing.
    """

    champion: tuple[float, ...]
    reach: float
    objectives: tuple[str, ...]
    state: tuple[str, ...]
    trained_in: str
    figures: dict[str, float] = {}
    signals_minutes: float = 60.0
    noise: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Tuned(NamedTuple):
    """Weights of one list.

    Attributes:
        objective: what the list is ordered by.
        log_fields: what off-policy evaluation needs of it, for the log; empty where nothing was left to
            chance.
    """

    objective: Objective
    log_fields: dict[str, Any]


class TunerEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What logged lists say of a tuner, before it serves anybody.

    Attributes:
        verdict: ``better`` or ``worse`` than who made the lists, or ``inconclusive``.
        gain: share of lists from which something is taken, over that of who made them.
        low: of the gain, at 95 %.
        high: the same.
        effective: so many lists of its own would tell as much.
        lists: how many were read.
        reasons: why it is inconclusive.
        network: which network was judged, as a check value of its file.
        noise: with how much chance in its weights.
    """

    verdict: str
    gain: float
    low: float
    high: float
    effective: float
    lists: int
    reasons: tuple[str, ...]
    network: str
    noise: float


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
        return self._weighed(self._network.act(state))

    def tune(self, at: int, generator: np.random.Generator) -> Tuned | None:
        """The weights of one list, with chance in them if the manifest says so.

        Args:
            at: epoch milliseconds.
            generator: where chance comes from.
        """
        state = self._state(at)
        if state is None or not self._network.covers(state):
            return None
        action, noise = self._network.act(state), self.manifest.noise
        if not noise:
            return Tuned(self._weighed(action), {})
        drawn = action + noise * generator.standard_normal(len(action))
        density = gaussian_log_density(drawn, action, noise)
        log_fields = {STATE: state.tolist(), DRAWN: drawn.tolist(), LOG_DENSITY: density}
        return Tuned(self._weighed(drawn), log_fields)

    def log_density(self, state: Sequence[float], drawn: Sequence[float], noise: float) -> float:
        """Log density of drawn actions, if they were this tuner's with so much noise.

        Raises:
            PolicyError: the state has another length.
        """
        return gaussian_log_density(drawn, self._network.act(state), noise)

    def _weighed(self, action: ArrayLike) -> Objective:
        weights = self._bounds.weights(action)
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


def network_check(directory: Path) -> str:
    """A value that another network would not have.

    Raises:
        ConfigError: if there is none.
    """
    try:
        return hashlib.sha256((directory / POLICY).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{directory}: no tuner can be read here: {error}") from error


def require_better(directory: Path) -> None:
    """Refuse a tuner that logged lists do not show to be better.

    Raises:
        ConfigError: if it was not evaluated, is another one now, or was not found better.
    """
    try:
        found = msgspec.json.decode((directory / EVALUATION).read_bytes(), type=TunerEvaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{directory}: not evaluated yet: run tactful tuner evaluate first ({error})"
        ) from error
    if found.network != network_check(directory):
        raise ConfigError(f"{directory}: another network was evaluated: evaluate this one")
    if found.verdict != "better":
        raise ConfigError(f"{directory}: the evaluation said {found.verdict}, not better")
