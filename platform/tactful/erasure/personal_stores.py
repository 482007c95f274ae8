"""The stores that hold data of users, for previews, offline and online erasure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import msgspec

from tactful.bandits.learner import DIRECTORY as BANDITS
from tactful.bandits.learner import BanditLearner, delete_snapshots
from tactful.config.settings import Settings
from tactful.erasure import offline_stores as offline
from tactful.event_log.encryption import is_sealed
from tactful.experiments.controller import RolloutController
from tactful.flags.sticky import StickyArms
from tactful.metadata.crossed_profiles import erase_profiles
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.webhooks import Webhooks
from tactful.schemas.users import ErasureStep
from tactful.subjects import export
from tactful.subjects.consent import ConsentStore
from tactful.subjects.crossings import CrossedProfiles
from tactful.subjects.installation import Installation
from tactful.subjects.trace_search import SearchResult
from tactful_privacy.errors import LedgerError
from tactful_privacy.people.consent import NOTHING
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.erasure import SubjectReferences
from tactful_streaming.errors import StateError
from tactful_streaming.state.store import RocksState


@dataclass(frozen=True)
class PersonalStore:
    """A store of users' data: `find`, `purge` and `verify` it.

    ::

        computed from the log   models, unfinished work, state, webhooks, bandits,
                                explanations (live only)
        recorded                log, spool, dead-letters, late, online store, keys, consent,
                                partitions

    A server gives the stores that it holds open another `purge`, by `LiveStores` and its logs.
    """

    place: str  # name in receipts; of files also their folder in the data directory
    # deletes the users' data; None if the server stops meanwhile; may be repeated
    purge: Callable[[SearchResult], ErasureStep | None]
    # lists the users' data as an export shows them; of some stores nothing is shown
    find: Callable[[SearchResult], Sequence[object]] = lambda result: ()
    recorded: bool = True  # False: computed from the log, so it is purged first

    def verify(self, hits: Iterable[str]) -> list[str]:
        """Return the files of this store among those that a search for the ids has found."""
        return [hit for hit in hits if hit.split("/")[0] == self.place]


def personal_stores(
    installation: Installation,
    receipt: str,
    *,
    rebuild: bool = False,  # delete the engine's state; the next start computes it from the log
    live: Sequence[PersonalStore] = (),  # replace stores of the same place, or come last
) -> list[PersonalStore]:
    """List the stores of an installation in the order of erasure.

    Keys come after the logs: sealed records are found by them.
    """
    settings, data = installation.settings, installation.data
    definitions = load_definitions(settings.features)
    in_files = settings.log.in_files
    purge_state = partial(offline.purge_state, settings, definitions)
    stores = [
        PersonalStore("models", lambda result: offline.purge_training(settings), recorded=False),
        PersonalStore(
            "unfinished work",
            lambda result: offline.purge_unfinished(settings, definitions, result.traces),
            recorded=False,
        ),
        PersonalStore(
            "state",
            (lambda result: offline.rebuild_state(data)) if rebuild else purge_state,
            lambda result: [*export.features_in(settings, result, installation.clock())],
            recorded=False,
        ),
        PersonalStore(
            "webhooks",
            partial(offline.purge_webhooks, data / "webhooks"),
            lambda result: [*export.actions_in(data / "webhooks", result)],
            recorded=False,
        ),
        PersonalStore(
            BANDITS,
            lambda result: ErasureStep(place=BANDITS, removed=delete_snapshots(data)),
            recorded=False,
        ),
        PersonalStore(
            "log", partial(offline.purge_log, installation), partial(offline.find_log, installation)
        ),
    ]
    if not in_files:
        stores.append(PersonalStore("spool", partial(offline.purge_spool, data / "spool")))
    stores += [
        PersonalStore(
            name,
            partial(offline.purge_letters, installation, name),
            partial(offline.find_letters, installation, name),
        )
        for name in offline.LETTERS
    ]
    if settings.online.shared:
        purge_online = partial(offline.purge_online, settings, definitions)
        stores.append(PersonalStore("online store", purge_online))
    if is_sealed(settings):
        stores.append(PersonalStore("keys", partial(offline.delete_keys, installation)))
    stores += _in_metadata(installation)
    if not in_files:
        purge_partitions = partial(offline.ask_owners, installation, receipt)
        stores.append(PersonalStore("partitions", purge_partitions))
    return [*({store.place: store for store in (*stores, *live)}.values())]


def _in_metadata(installation: Installation) -> list[PersonalStore]:
    """List the stores in the metadata."""
    metadata = installation.metadata
    consents = partial(ConsentStore, metadata, NOTHING, clock=installation.clock)
    return [
        PersonalStore(
            "consent",
            lambda result: offline.purge_consent(consents(), result),
            lambda result: export.decisions_in(consents(), result),
        ),
        PersonalStore(
            "flags",
            partial(offline.purge_arms, StickyArms(metadata)),
            partial(export.arms_in, metadata),
        ),
        PersonalStore(
            "domains",
            partial(offline.purge_profiles, partial(erase_profiles, metadata)),
            partial(export.profiles_in, metadata),
        ),
    ]


@dataclass(eq=False)
class LiveStores:
    """The stores that a running server holds open; for one thread at a time.

    The engine's thread changes the state, between two batches. The bytes leave the disk by a
    compaction, during which the server works on.
    """

    settings: Settings
    engine: Engine
    state: RocksState
    applier: LogApplier
    lock: AbstractContextManager[object]  # held while the state that readers see changes
    consents: ConsentStore
    webhooks: Webhooks | None  # waiting calls, if actions are sent to a webhook
    # deletes recent recommendations; returns their number
    drop_recommendations: Callable[[SearchResult], int]
    rollouts: RolloutController
    arms: StickyArms  # of sticky experiments
    profiles: CrossedProfiles  # of other domains
    bandits: BanditLearner

    def settle(self) -> None:
        """Store everything that was applied, so that a search of the state finds it.

        An engine that does not run any more raises StateError.
        """
        self.applier.between(lambda: 0)

    def stores(self, references: SubjectReferences) -> list[PersonalStore]:
        """List the stores; deleted bytes stay on disk until :meth:`purge`.

        The references come from a search of the state after the users were suppressed.
        """
        return [
            PersonalStore("state", partial(self._purge_state, references), recorded=False),
            PersonalStore("webhooks", self._purge_webhooks, recorded=False),
            PersonalStore("explanations", self._purge_recommendations, recorded=False),
            PersonalStore(BANDITS, self._purge_bandits, recorded=False),
            PersonalStore("consent", partial(offline.purge_consent, self.consents)),
            PersonalStore("flags", partial(offline.purge_arms, self.arms)),
            PersonalStore("domains", partial(offline.purge_profiles, self.profiles.erase)),
        ]

    def purge(self) -> None:
        """Remove the bytes of deleted data from disk; rewrites the whole state.

        It may be repeated after a StateError of the disk.
        """
        self.state.purge()
        if self.webhooks is not None:
            self.webhooks.purge()

    def _purge_state(self, references: SubjectReferences, result: SearchResult) -> ErasureStep:
        """Delete users from counts of rollouts, the engine's memory and its state."""
        self.rollouts.forget(result.traces)
        work = partial(
            self.engine.erasure.delete,
            result.traces,
            offline.snapshots_without(self.settings, result),
            references=references,
            lock=self.lock,
        )
        try:
            removed = self.applier.between(work)
        except LedgerError as error:  # the engine commits before it deletes
            raise StateError(f"the engine cannot commit: {error}") from error
        return ErasureStep(place="state", removed=removed)

    def _purge_webhooks(self, result: SearchResult) -> ErasureStep:
        removed = 0 if self.webhooks is None else self.webhooks.forget(result.owns_delivery)
        return ErasureStep(place="webhooks", removed=removed)

    def _purge_bandits(self, result: SearchResult) -> ErasureStep:
        """Learn all bandits again from the log, without the users, who are suppressed by now."""
        return ErasureStep(place=BANDITS, removed=self.bandits.forget())

    def _purge_recommendations(self, result: SearchResult) -> ErasureStep:
        return ErasureStep(place="explanations", removed=self.drop_recommendations(result))


class StepReport:
    """Steps of one erasure, written to its receipt as they are done.

    A repeated step finds nothing left to remove, so the larger count is kept.
    """

    def __init__(
        self, installation: Installation, receipt: str, say: Callable[[str], None]
    ) -> None:
        """Continue the report of a receipt; `say` is called with the place of each step."""
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

    def purge(self, stores: Iterable[PersonalStore], result: SearchResult) -> bool:
        """Purge stores and report each; False if the server stops meanwhile."""
        for store in stores:
            step = store.purge(result)
            if step is None:
                return False
            self._add(step)
        return True

    def _add(self, step: ErasureStep) -> None:
        """Write a step to the receipt."""
        earlier = self._steps.get(step.place)
        if earlier is not None and earlier.removed > step.removed:
            step = earlier
        if step.at is None:
            step = msgspec.structs.replace(step, at=self._installation.clock())
        self._steps[step.place] = step
        self._installation.jobs.note(self._receipt, self.steps)
        self._say(step.place)
