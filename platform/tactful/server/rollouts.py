"""Control of rollouts by a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tactful.config.settings import Settings
from tactful.errors import ModelError
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.controller import OwnOutcomes, RolloutController
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.ranking.model import read_pointer
from tactful_privacy.ledger.query import Query


def control_rollouts(
    settings: Settings,
    store: RolloutStore,
    outcomes: ExactOutcomes,
    *,
    clock: Callable[[], int],
    charge: Callable[[Iterable[Query]], None],
    own: Callable[[StoredRollout], OwnOutcomes | None],
) -> RolloutController:
    """Make the controller of the rollouts of a server."""

    def has_model() -> bool:
        try:
            return read_pointer(settings.models) is not None
        except ModelError:  # a damaged pointer leaves the model in service that was
            return True

    return RolloutController(
        store,
        outcomes.logs,
        every_ms=int(settings.recommend.look_minutes * 60_000),
        clock=clock,
        allows=outcomes.allows,
        charge=charge,
        recipients=outcomes.recipients,
        has_model=has_model,
        own=own,
    )
