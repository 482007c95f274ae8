"""Data of persons in a running server: features, export, look-up, requests of erasure."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from tactful.erasure.bulk import request_erasures
from tactful.schemas.users import (
    ErasureRequest,
    ErasureResult,
    FeatureMeaning,
    PersonExport,
    PersonMatches,
    UserFeatures,
)
from tactful.subjects.export import export_person
from tactful.subjects.history import meanings
from tactful.subjects.look_up import Identifier, look_up
from tactful.subjects.trace_search import search_log, search_partitions
from tactful_streaming.definitions.reader import load_definitions

if TYPE_CHECKING:
    from tactful.server.platform import Platform


class PersonData:
    """Reads what a platform stores about persons.

    All but `features` are called in a thread. They raise `StorageError` if the metadata cannot be
    used, and `StreamingError` if log or state cannot be read.
    """

    def __init__(self, platform: Platform) -> None:
        """Read the stores of `platform`."""
        self._platform = platform

    def features(self, user: str, at: int | None) -> UserFeatures:
        """Return the features of one user as of `at` (epoch ms), or now."""
        platform = self._platform
        platform.check()
        time = platform.resources.installation.clock() if at is None else at
        with platform.lock:
            features = platform.backend.source.read("user", user, time)
            position = platform.position
        return UserFeatures(
            user_id=user,
            at=time,
            position=position,
            features=dict(features),
            meanings=self._meanings,
            lifecycle=platform.life_cycles.of(user, features, time),
            crossed=platform.domains.shown(user, time),
        )

    @cached_property
    def _meanings(self) -> list[FeatureMeaning]:
        """Meanings of the features of users."""
        return meanings(load_definitions(self._platform.settings.features))

    def export(self, user: str) -> PersonExport:
        """Return everything that is stored about a user."""
        platform = self._platform
        installation = platform.resources.installation
        with platform.backend.searched() as partitions:
            # A log in files is searched faster through its files.
            kafka = not platform.settings.log.in_files
            return export_person(
                platform.settings,
                installation.metadata,
                user,
                clock=installation.clock,
                search=search_partitions(partitions) if kafka else None,
            )

    def find(self, identifiers: Collection[Identifier]) -> Mapping[Identifier, PersonMatches]:
        """Return the users of identifiers."""
        platform = self._platform
        clock, erased = platform.resources.installation.clock, platform.suppression.suppressed
        with platform.backend.searched() as partitions, contextlib.ExitStack() as stack:
            if platform.settings.log.in_files:
                search = stack.enter_context(search_log(platform.settings, clock=clock))
            else:
                search = search_partitions(partitions)
            return look_up(search, identifiers, erased=erased, minimise=platform.minimise)

    def request_erasures(self, requests: Sequence[ErasureRequest], by: str) -> list[ErasureResult]:
        """Request the erasure of many users, on behalf of `by`."""
        return request_erasures(self._platform.resources.installation, requests, self.find, by=by)
