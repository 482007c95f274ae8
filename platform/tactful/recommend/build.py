"""Make the recommender of a server from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tactful.bandits.serving import FILE as BANDITS
from tactful.config.settings import Settings
from tactful.event_log.recipients import open_ids
from tactful.experiments.serving import FILE
from tactful.ranking.features import columns_fingerprint
from tactful.recall.latest_event import NAME as LATEST
from tactful.recall.latest_event import LatestEvent
from tactful.recall.takers import NAME as TAKERS
from tactful.recall.takers import TakenByMany, Takers
from tactful.recall.trending import Rising, Trends
from tactful.recommend.recommender import Recommender
from tactful.recommend.served_models import RecommenderOptions
from tactful.rerank.arm_policy import ranking_experiment
from tactful.rerank.frequency_caps import Shown, ShownToday
from tactful.rerank.placement_rules import load_placement
from tactful.understanding.item_vectors import stored_vectors
from tactful.util.signing import trusted_keys
from tactful_streaming.engine.options import CoCommittedConsumer


@dataclass(frozen=True)
class Counts:
    """Counters of a server for its recommenders, beside features; None for those that are off."""

    shown: ShownToday | None = None  # impressions of each item today
    takers: Takers | None = None  # people who took each item
    latest: LatestEvent | None = None  # time of the latest event
    trends: Trends | None = None  # rises in published statistics

    def consumers(self) -> dict[str, CoCommittedConsumer]:
        """Return those that the engine gives its events to, by name."""
        named = {"shown": self.shown, TAKERS: self.takers, LATEST: self.latest}
        return {name: counter for name, counter in named.items() if counter is not None}

    def options(self) -> dict[str, Any]:
        """Return the keywords of `build`."""
        return {
            "shown": self.shown,
            "takers": self.takers,
            "latest": None if self.latest is None else self.latest.at,
            "rising": None if self.trends is None else self.trends.look,
        }


def open_counts(settings: Settings, trends: Trends | None = None) -> Counts:
    """Make the counters that the settings need."""
    return Counts(open_shown(settings), open_takers(settings), LatestEvent(), trends)


def build(
    *,
    engine: Any,
    settings: Settings,
    shown: Shown | None = None,
    rising: Rising | None = None,
    takers: TakenByMany | None = None,
    latest: Callable[[], int] | None = None,
) -> Recommender:
    """Make the recommender that ``tactful serve`` runs, with the champion if there is one.

    Without `takers` anonymous recommendations have no minimum of people. `latest` returns the time
    of the latest event.

    Raises:
        ConfigError: if a file is wrong, or holds no experiment on the ranking.
        StorageError: if the keyring cannot be used.
    """
    options = RecommenderOptions(
        models=settings.models,
        definitions=columns_fingerprint(engine.definitions),
        trusted=trusted_keys(settings.storage.data, settings.models),
        experiment=ranking_experiment(settings.experiments),
        placement=load_placement(settings.placement),
        encoded=stored_vectors(settings),
        shown=shown,
        rising=rising,
        takers=takers,
        latest=latest or (lambda: 0),
        minimum_people=settings.recommend.anonymous_minimum,
        rollouts=settings.storage.data / FILE,
        bandits=settings.storage.data / BANDITS,
        holdout=settings.recommend.holdout,
        ids=open_ids(settings),
        discovery=None
        if settings.recommend.discovery == "trained"
        else settings.recommend.discovery,
    )
    return Recommender(engine, options)


def open_shown(settings: Settings) -> ShownToday | None:
    """Make the counter of items shown today, if a placement rule needs it."""
    capped = any(rule.per_day for rule in load_placement(settings.placement))
    return ShownToday() if capped else None


def open_takers(settings: Settings) -> Takers | None:
    """Make the counter of people, if anonymous recommendations have a minimum."""
    least = settings.recommend.anonymous_minimum
    return Takers(least) if least > 1 else None
