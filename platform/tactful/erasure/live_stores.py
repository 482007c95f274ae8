"""What a server at work holds of people beside its files, and lets go of when they are erased.

The state of the engine is changed by its own thread, between two batches. From disk it goes by a
compaction, which others neither wait for nor notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from tactful.experiments.controller import RolloutController
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.webhooks import Webhooks
from tactful.rerank.frequency_caps import without_people
from tactful.schemas.users import ErasureStep
from tactful.subjects.consent import ConsentStore
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.errors import LedgerError
from tactful_streaming.contract.log_entries import decode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.erasure import Listed, is_of
from tactful_streaming.errors import StateError, StreamingError
from tactful_streaming.sinks.webhook import Delivery
from tactful_streaming.state.store import RocksState


class LiveStores:
    """The state, webhooks, latest lists and counts of a server; for one thread at a time.

    Attributes:
        consents: what people have agreed to, as the server knows it.
    """

    def __init__(
        self,
        engine: Engine,
        state: RocksState,
        applier: LogApplier,
        lock: AbstractContextManager[object],
        *,
        consents: ConsentStore,
        webhooks: Webhooks | None,
        drop_lists: Callable[[SearchResult], int],
        keeper: RolloutController,
    ) -> None:
        """Know where a server holds what.

        Args:
            engine: computes features.
            state: where its state is stored.
            applier: whose thread uses the engine.
            lock: held while what readers of the engine see changes.
            consents: what people have agreed to.
            webhooks: who tells others of actions, if anybody does.
            drop_lists: forgets lists that are kept to be explained; how many there were.
            keeper: counts people in the arms of rollouts.
        """
        self._engine = engine
        self._state = state
        self._applier = applier
        self._lock = lock
        self.consents = consents
        self._webhooks = webhooks
        self._drop_lists = drop_lists
        self._keeper = keeper

    def settle(self) -> None:
        """Have everything stored that was applied, so that a search of the state finds it.

        Raises:
            StateError: if the engine does not run any more.
        """
        self._applier.between(lambda: 0)

    def forget(self, found: SearchResult, listed: Listed) -> Iterator[ErasureStep]:
        """Remove people from the engine's memory and state, from webhooks, latest lists and counts.

        Their bytes are in files until :meth:`purge`.

        Args:
            found: what they have left.
            listed: what a search of the state has found since they were suppressed.

        Raises:
            StateError: if disk or ledger refused, or the engine does not run; it may be done again.
        """
        self._keeper.forget(found.traces)
        people = found.traces.people
        work = partial(
            self._engine.forget,
            found.traces,
            {"shown": partial(without_people, people=people)},
            listed=listed,
            lock=self._lock,
        )
        try:
            removed = self._applier.between(work)
        except LedgerError as error:  # the engine commits before it forgets
            raise StateError(f"the engine cannot commit: {error}") from error
        yield ErasureStep(place="state", removed=removed)
        removed = 0 if self._webhooks is None else self._webhooks.forget(partial(_names, found))
        yield ErasureStep(place="webhooks", removed=removed)
        yield ErasureStep(place="explanations", removed=self._drop_lists(found))

    def purge(self) -> None:
        """Have no bytes left on disk of what was forgotten; takes as long as writing all of it.

        Raises:
            StateError: if the disk refused; it may be done again.
        """
        self._state.purge()
        if self._webhooks is not None:
            self._webhooks.purge()


def _names(found: SearchResult, delivery: Delivery) -> bool:
    if delivery.event_id in found.traces.event_ids:
        return True
    try:
        return is_of(decode_entry(delivery.body), found.traces)
    except StreamingError:
        return any(needle in delivery.body for needle in found.needles)
