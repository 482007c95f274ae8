"""Erasure of users from the stores that a running server holds open.

The engine's thread changes the state, between two batches. The bytes leave the disk by a
compaction, during which the server works on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from tactful.erasure.offline_stores import erase_consent
from tactful.erasure.personal_stores import PersonalStores
from tactful.experiments.controller import RolloutController
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.webhooks import Webhooks
from tactful.rerank.frequency_caps import without_people
from tactful.schemas.users import ErasureStep
from tactful.subjects.consent import ConsentStore
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.errors import LedgerError
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.erasure import SubjectReferences
from tactful_streaming.errors import StateError
from tactful_streaming.state.store import RocksState


class LiveStores:
    """State, webhooks, recent recommendations and decisions of a running server.

    For one thread at a time.
    """

    def __init__(
        self,
        engine: Engine,
        state: RocksState,
        applier: LogApplier,
        # held while the state that readers of the engine see changes
        lock: AbstractContextManager[object],
        *,
        consents: ConsentStore,
        webhooks: Webhooks | None,  # waiting calls, if actions are sent to a webhook
        # deletes recent recommendations; returns their number
        drop_recommendations: Callable[[SearchResult], int],
        rollouts: RolloutController,
    ) -> None:
        """Take the stores of a server."""
        self._engine = engine
        self._state = state
        self._applier = applier
        self._lock = lock
        self._consents = consents
        self._webhooks = webhooks
        self._drop_recommendations = drop_recommendations
        self._rollouts = rollouts

    def settle(self) -> None:
        """Store everything that was applied, so that a search of the state finds it.

        Raises:
            StateError: if the engine does not run any more.
        """
        self._applier.between(lambda: 0)

    def derived_stores(self, references: SubjectReferences) -> PersonalStores:
        """List the stores that are computed from the log.

        Deleted bytes stay on disk until :meth:`purge`.

        Args:
            references: result of a search of the state after the users were suppressed.
        """
        return {
            "state": partial(self._purge_state, references),
            "webhooks": self._purge_webhooks,
            "explanations": self._purge_recommendations,
        }

    def recorded_stores(self) -> PersonalStores:
        """List the stores of users' decisions."""
        return {"consent": partial(erase_consent, self._consents)}

    def purge(self) -> None:
        """Remove the bytes of deleted data from disk; rewrites the whole state.

        Raises:
            StateError: if the disk refused; it may be repeated.
        """
        self._state.purge()
        if self._webhooks is not None:
            self._webhooks.purge()

    def _purge_state(self, references: SubjectReferences, result: SearchResult) -> ErasureStep:
        """Delete users from counts of rollouts, the engine's memory and its state.

        Raises:
            StateError: if disk or ledger refused, or the engine does not run; it may be repeated.
        """
        self._rollouts.forget(result.traces)
        work = partial(
            self._engine.erasure.delete,
            result.traces,
            {"shown": partial(without_people, people=result.traces.people)},
            references=references,
            lock=self._lock,
        )
        try:
            removed = self._applier.between(work)
        except LedgerError as error:  # the engine commits before it deletes
            raise StateError(f"the engine cannot commit: {error}") from error
        return ErasureStep(place="state", removed=removed)

    def _purge_webhooks(self, result: SearchResult) -> ErasureStep:
        removed = 0
        if self._webhooks is not None:
            removed = self._webhooks.forget(result.owns_delivery)
        return ErasureStep(place="webhooks", removed=removed)

    def _purge_recommendations(self, result: SearchResult) -> ErasureStep:
        return ErasureStep(place="explanations", removed=self._drop_recommendations(result))
