"""Decide by the bandits that are published in a file of the data directory.

The process that owns the log writes what the bandits have learnt, and every process that decides
reads it there, as it reads the rollouts. No decision waits for a database.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tactful.bandits.decisions import Decision, draw
from tactful.bandits.definitions import BanditDefinition, State
from tactful.bandits.model import BanditModel, FeatureVector, ModelArrays
from tactful.errors import ConfigError
from tactful.util.changed_file import ChangedFile
from tactful_privacy.decoding import DECODE_ERRORS

logger = logging.getLogger(__name__)

FILE = "bandits.published"
"""Name of the file in the data directory."""


class PublishedBandit(msgspec.Struct, frozen=True):
    """One bandit in the file."""

    definition: BanditDefinition
    state: State
    arrays: ModelArrays


class ServedBandit:
    """A bandit that decides."""

    def __init__(self, published: PublishedBandit, rng: np.random.Generator) -> None:
        """Read what was learnt; raise ConfigError if it does not fit the definition."""
        self.published = published
        self.definition = definition = published.definition
        self.state = published.state
        self.parts = definition.parts()
        self._names = definition.names
        self._model = BanditModel(definition, published.arrays, rng)
        self._vector, self._layout = FeatureVector(definition), definition.layout
        arms, default = len(self._names), definition.default_index
        explored = definition.shadow_explore
        self._shadow = [explored / arms + (1 - explored) * (arm == default) for arm in range(arms)]

    def decide(
        self,
        user: Mapping[str, Any],
        context: Mapping[str, Any],
        rng: np.random.Generator,
        *,
        in_change: bool | None = None,
    ) -> Decision:
        """Choose an arm.

        Args:
            user: online features of the user.
            context: context of the request.
            rng: source of randomness.
            in_change: whether a rollout gives the user the bandit; None: no rollout has it, so its
                state decides.
        """
        live = self.state == "live" if in_change is None else in_change
        features = self._vector.of(user, context)
        own = self._model.probabilities(features, rng).tolist()
        choice = draw(own, rng)
        served = own if live else self._shadow
        arm = choice if live else draw(served, rng)
        return Decision(
            key=self.definition.key,
            arm=self._names[arm],
            index=arm,
            propensity=served[arm],
            probability=own[arm],
            floor=min(served),
            choice=self._names[choice],
            live=live,
            features=features,
            layout=self._layout,
        )

    @property
    def reads_users(self) -> bool:
        """Whether online features of the user are needed."""
        return any(feature.user for feature in self.definition.features)

    @property
    def default(self) -> int:
        """Index of the default arm."""
        return self.definition.default_index


class ServedBandits:
    """The published bandits, reloaded when their file changes."""

    def __init__(self, path: Path | None) -> None:
        """Follow a file; None follows none."""
        self._file = None if path is None else ChangedFile(path)
        self._rng = np.random.default_rng()
        self.by_key: Mapping[str, ServedBandit] = {}
        self.recommending: ServedBandit | None = None  # the one that shapes recommendations

    def refresh(self) -> bool:
        """Reload the file if it changed, and return whether it did.

        If it is invalid the former bandits stay; raise ConfigError then.
        """
        if self._file is None or not self._file.changed():
            return False
        try:
            content = self._file.path.read_bytes()
            published = msgspec.msgpack.decode(content, type=list[PublishedBandit])
        except (OSError, *DECODE_ERRORS) as error:
            raise ConfigError(f"{self._file.path}: cannot be read: {error}") from error
        served = [self._served(each) for each in published]
        self.by_key = {bandit.definition.key: bandit for bandit in served}
        shaping = [it for it in served if it.definition.recommends and it.state != "off"]
        self.recommending = shaping[0] if shaping else None
        return True

    def _served(self, published: PublishedBandit) -> ServedBandit:
        """Return the bandit; the present one if nothing of it has changed."""
        held = self.by_key.get(published.definition.key)
        if held is not None and held.published == published:
            return held
        return ServedBandit(published, self._rng)


def encode_published(bandits: list[PublishedBandit]) -> bytes:
    """Encode the content of the file."""
    return msgspec.msgpack.encode(bandits)
