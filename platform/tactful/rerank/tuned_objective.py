"""Objective weights that a trained network sets by the state of the shop, within bounds.

A directory holds `policy.bin` (the network, see `tactful_bandits.NetworkPolicy`), `tuner.json` (the
bounds of the weights, the inputs of the network, its training) and `signals.json`: the present
state of the shop, kept up to date by its operator. The champion's weights hold if a signal is
missing or old, or the network was not trained on such a state.
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
from tactful_bandits.tuner.network import Floats32, NetworkPolicy, gaussian_log_density
from tactful_bandits.tuner.weight_bounds import WeightBounds
from tactful_privacy.decoding import DECODE_ERRORS

POLICY = "policy.bin"
MANIFEST = "tuner.json"
SIGNALS = "signals.json"
EVALUATION = "evaluation.json"
"""Result of `tactful tuner evaluate`."""

STATE, DRAWN, LOG_DENSITY = "tuner_state", "tuner_drawn", "tuner_log_density"
"""Properties of a logged recommendation: input of the tuner, its draw, and the draw's density."""

_DAY_MS = 86_400_000
_LOOK_MS = 5_000


class TunerManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Manifest of a network."""

    champion: tuple[float, ...]  # weights of action 0, summing to 1
    reach: float  # the largest change of one of them
    objectives: tuple[str, ...]  # names of the weighed signals, in the order of the weights
    # names of the inputs, in this order. `hour_sine` and `hour_cosine` are of the UTC time of day;
    # all others are read from the signals.
    state: tuple[str, ...]
    # place of the training: a simulated market, or `module:factory` of an environment. Neither is
    # evidence about real users.
    trained_in: str
    verdict: str = ""  # `tuner` or `fixed`: which of both was better there; empty if not compared
    figures: dict[str, float] = {}  # measurements made there
    signals_minutes: float = 60.0  # signals that are older count as missing
    # standard deviation of the noise added to each action; 0 adds none
    noise: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Tuned(NamedTuple):
    """Weights of one recommendation."""

    objective: Objective
    # fields that off-policy evaluation needs; empty where nothing was drawn
    log_fields: dict[str, Any]


class TunerEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Off-policy evaluation of a tuner from logged recommendations, before it serves."""

    verdict: str  # `better` or `worse` than the logging policy, or `inconclusive`
    gain: float  # share of recommendations from which something is taken, over the logging policy's
    low: float  # of the gain, at 95 %
    high: float  # of the gain, at 95 %
    effective: float  # effective sample size, in recommendations of its own
    lists: int  # number of recommendations that were read
    needed: int = 0  # number that shows the planned change; 0 in older evaluations
    reasons: tuple[str, ...]
    network: str  # check value of the judged network's file
    noise: float  # standard deviation of the noise in its weights


class _Signals(msgspec.Struct, frozen=True):
    at: int
    values: dict[str, float]


class Tuner:
    """A trained tuner; a call takes some microseconds."""

    def __init__(self, directory: Path) -> None:
        """Read the network, its manifest and its bounds.

        Raises:
            ConfigError: if one is missing or damaged, or they do not fit each other.
        """
        self._signals_path = directory / SIGNALS
        try:
            self.manifest = msgspec.json.decode(
                (directory / MANIFEST).read_bytes(), type=TunerManifest
            )
            self._network = NetworkPolicy.from_bytes((directory / POLICY).read_bytes())
            manifest = self.manifest
            self._bounds = WeightBounds(manifest.champion or (1.0,), reach=manifest.reach)
        except (OSError, PolicyError, *DECODE_ERRORS) as error:
            raise ConfigError(f"{directory}: no tuner can be read here: {error}") from error
        if not manifest.objectives:
            raise ConfigError(
                f"{directory}: this network acts in {manifest.trained_in} and weighs no "
                "objectives: to serve it, give its environment the attributes objectives, "
                "state_names and bounds"
            )
        widths = len(manifest.champion), len(manifest.objectives), self._network.actions
        if len({*widths}) > 1 or len(manifest.state) != len(self._network.mean):
            raise ConfigError(f"{directory}: the network and {MANIFEST} do not fit each other")
        unknown = [name for name in manifest.objectives if not hasattr(Objective(), name)]
        if unknown:
            raise ConfigError(f"{directory}: there are no objectives {', '.join(unknown)}")
        self._signals: _Signals | None = None
        self._looked_at = -_LOOK_MS

    def objective(self, at: int) -> Objective | None:
        """Return the weights at a time, epoch milliseconds; None where the champion's hold."""
        state = self._state(at)
        if state is None or not self._network.covers(state):
            return None
        return self._weighed(self._network.act(state))

    def tune(self, at: int, generator: np.random.Generator) -> Tuned | None:
        """Return the weights of one recommendation, with noise if the manifest has any."""
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
        """Return the log density of drawn actions under this tuner with a standard deviation.

        Raises:
            PolicyError: the state has another length.
        """
        return gaussian_log_density(drawn, self._network.act(state), noise)

    def squared_distance(self, state: Sequence[float]) -> float:
        """Return the squared distance of the action at a state to that of the champion, 0.

        Raises:
            PolicyError: the state has another length.
        """
        action = np.asarray(self._network.act(state), np.float64)
        return float(action @ action)

    def typical_states(self, number: int, generator: np.random.Generator) -> Floats32:
        """Draw states like those of the training, ``[number, states]``, within the range of use."""
        network = self._network
        drawn = generator.normal(network.mean, network.deviation, (number, len(network.mean)))
        return np.clip(drawn, network.lowest, network.highest).astype(np.float32)

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
        except (OSError, *DECODE_ERRORS):
            return None


def network_check(directory: Path) -> str:
    """Return a check value of a network's file.

    Raises:
        ConfigError: if there is no file.
    """
    try:
        return hashlib.sha256((directory / POLICY).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{directory}: no tuner can be read here: {error}") from error


def require_better(directory: Path) -> None:
    """Refuse a tuner whose evaluation does not show that it is better.

    Raises:
        ConfigError: if it was not evaluated, changed since, or is not better.
    """
    try:
        evaluation = msgspec.json.decode(
            (directory / EVALUATION).read_bytes(), type=TunerEvaluation
        )
    except (OSError, *DECODE_ERRORS) as error:
        raise ConfigError(
            f"{directory}: not evaluated yet: run tactful tuner evaluate first ({error})"
        ) from error
    if evaluation.network != network_check(directory):
        raise ConfigError(f"{directory}: another network was evaluated: evaluate this one")
    if evaluation.verdict != "better":
        raise ConfigError(
            f"{directory}: the verdict of the evaluation is {evaluation.verdict}, not better"
        )
