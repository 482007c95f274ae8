"""Make the recommender of a server from its settings."""

from __future__ import annotations

from typing import Any

from tactful.config.settings import Settings
from tactful.event_log.recipients import open_ids
from tactful.experiments.serving import FILE
from tactful.recall.takers import TakenByMany, Takers
from tactful.recall.trending import Rising
from tactful.recommend.recommender import Recommender
from tactful.recommend.served_models import RecommenderOptions
from tactful.rerank.arm_policy import ranking_experiment
from tactful.rerank.frequency_caps import Shown, ShownToday
from tactful.rerank.placement_rules import load_placement
from tactful.util.signing import trusted_keys


def build(
    *,
    engine: Any,
    settings: Settings,
    shown: Shown | None = None,
    rising: Rising | None = None,
    takers: TakenByMany | None = None,
) -> Recommender:
    """Make the recommender that ``tactful serve`` runs, with the champion if there is one.

    Without `takers` anonymous recommendations have no minimum of people.

    Raises:
        ConfigError: if a file is wrong, or holds no experiment on the ranking.
        StorageError: if the keyring cannot be used.
    """
    options = RecommenderOptions(
        models=settings.models,
        definitions=engine.definitions.fingerprint,
        trusted=trusted_keys(settings.storage.data, settings.models),
        experiment=ranking_experiment(settings.experiments),
        placement=load_placement(settings.placement),
        shown=shown,
        rising=rising,
        takers=takers,
        minimum_people=settings.recommend.anonymous_minimum,
        rollouts=settings.storage.data / FILE,
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
