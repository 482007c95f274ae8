"""What makes the recommender of a benchmark's server; a module that imports nothing beside it.

A worker imports this to begin, so whatever it needs is in the memory that is measured of a worker.
"""

from __future__ import annotations

from typing import Any

from tactful.config.settings import Settings
from tactful.ranking.features import columns_fingerprint
from tactful.recall.candidates import Quotas
from tactful.recommend.recommender import RANKING_EXPERIMENT, Recommender, RecommenderOptions
from tactful_bandits.assignment.assign import Arm, Experiment

CANDIDATES = 1_000


def build(*, engine: Any, settings: Settings, **_: Any) -> Recommender:
    """The product's recommender, all of whose lists are ranked by the model from 1,000 items."""
    arms = (Arm("learned", 0.5), Arm("the-same", 0.5))
    return Recommender(
        engine,
        RecommenderOptions(
            models=settings.models,
            definitions=columns_fingerprint(engine.definitions),
            experiment=Experiment(RANKING_EXPERIMENT, arms),
            quotas=Quotas(vectors=CANDIDATES, total=CANDIDATES),
        ),
    )
