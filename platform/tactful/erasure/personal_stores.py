"""The stores that hold data of users, for offline and online erasure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from tactful.erasure.offline_stores import (
    LETTERS,
    ask_owners,
    delete_keys,
    purge_consent,
    purge_letters,
    purge_log,
    purge_online,
    purge_spool,
    purge_state,
    purge_training,
    purge_webhooks,
    rebuild_state,
)
from tactful.erasure.unfinished_jobs import purge_unfinished
from tactful.event_log.encryption import is_sealed
from tactful.schemas.users import ErasureStep
from tactful.subjects.installation import Installation
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.definitions.reader import load_definitions

Purge = Callable[[SearchResult], ErasureStep | None]
"""Deletes what was found from one store; None if the server stops meanwhile. May be repeated."""

PersonalStores = dict[str, Purge]
"""Stores by their places in receipts, in the order of erasure.

::

    derived_stores    models, unfinished work, state, webhooks
    recorded_stores   log, spool, dead-letters, late, online store, keys, consent, partitions

A server replaces the entries of stores that it holds open by those of
`tactful.erasure.live_stores`. Keys are deleted after the logs: sealed records are found by them.
"""


def derived_stores(installation: Installation, *, rebuild: bool = False) -> PersonalStores:
    """List the stores that are computed from the log, which are purged first.

    Args:
        rebuild: delete the engine's state; the next start computes it again from the log.
    """
    settings, data = installation.settings, installation.data
    definitions = load_definitions(settings.features)
    state = partial(purge_state, data / "state", definitions)
    return {
        "models": lambda result: purge_training(settings),
        "unfinished work": lambda result: purge_unfinished(settings, definitions, result.traces),
        "state": (lambda result: rebuild_state(data)) if rebuild else state,
        "webhooks": partial(purge_webhooks, data / "webhooks"),
    }


def recorded_stores(installation: Installation, receipt: str) -> PersonalStores:
    """List logs, copies, keys and decisions."""
    settings, data = installation.settings, installation.data
    stores: PersonalStores = {"log": partial(purge_log, installation)}
    if not settings.log.in_files:
        stores["spool"] = partial(purge_spool, data / "spool")
    for name in LETTERS:
        stores[name] = partial(purge_letters, installation, name)
    if settings.online.shared:
        stores["online store"] = partial(
            purge_online, settings, load_definitions(settings.features)
        )
    if is_sealed(settings):
        stores["keys"] = partial(delete_keys, installation)
    stores["consent"] = partial(purge_consent, installation)
    if not settings.log.in_files:
        stores["partitions"] = partial(ask_owners, installation, receipt)
    return stores


class StepReport:
    """Steps of one erasure, written to its receipt as they are done.

    A repeated step finds nothing left to remove, so the larger count is kept.
    """

    def __init__(
        self, installation: Installation, receipt: str, say: Callable[[str], None]
    ) -> None:
        """Continue the report of a receipt."""
        self._installation = installation
        self._receipt = receipt
        self._say = say
        erasure = installation.jobs.find(receipt)
        self._steps = {} if erasure is None else {step.place: step for step in erasure.steps}

    def __contains__(self, place: str) -> bool:
        """Return whether a step was done, now or by an earlier run."""
        return place in self._steps

    @property
    def steps(self) -> list[ErasureStep]:
        """The steps that were done."""
        return [*self._steps.values()]

    def purge(self, stores: PersonalStores, result: SearchResult) -> bool:
        """Purge stores and report each; False if the server stops meanwhile."""
        for purge in stores.values():
            step = purge(result)
            if step is None:
                return False
            self.add(step)
        return True

    def add(self, step: ErasureStep) -> None:
        """Write a step to the receipt."""
        earlier = self._steps.get(step.place)
        if earlier is not None and earlier.removed > step.removed:
            step = earlier
        if step.at is None:
            step = msgspec.structs.replace(step, at=self._installation.clock())
        self._steps[step.place] = step
        self._installation.jobs.note(self._receipt, self.steps)
        self._say(step.place)
