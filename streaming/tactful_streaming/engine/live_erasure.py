"""Erasure of users from the state store and the memory of a running engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType

from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.engine.commits import EngineCommits
from tactful_streaming.engine.engine_state import EngineState
from tactful_streaming.engine.erasure import (
    SubjectReferences,
    delete_subjects,
    find_references,
    history_keys,
    names_subject,
)
from tactful_streaming.engine.references import drops_of, entity_key, operator_key
from tactful_streaming.state.key_layout import OPERATOR


class EngineErasure:
    """Deletes users from the state and the memory of an engine."""

    def __init__(self, state: EngineState, commits: EngineCommits) -> None:
        """Delete from `state`, which `commits` stores."""
        self._state = state
        self._commits = commits

    def delete(
        self,
        subjects: SubjectIds,
        snapshots: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType({}),
        *,
        references: SubjectReferences | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> int:
        """Delete users from the state and the memory of the engine.

        They are suppressed already, so that nothing of them is added any more. Counts to which many
        users contributed stay. To remove the bytes from disk, too, purge the store afterwards.

        Args:
            subjects: ids to delete.
            snapshots: by name of a consumer, makes its snapshot without these users.
            references: result of a search of the stored state since a commit after they were
                suppressed; None: it is searched here.
            lock: held, briefly, while what readers see changes.

        Returns:
            Number of keys removed.

        Raises:
            StateError: if the write failed; call it again.
        """
        state = self._state
        self._commits.commit()
        keys = history_keys(state.store, subjects)
        if references is None:
            references = find_references(state.store, subjects, state.definitions)
        removed = delete_subjects(
            state.store, subjects, state.definitions, snapshots, references=references
        )
        with nullcontext() if lock is None else lock:
            self._delete_from_memory(subjects, keys, references.mentions)
        self._commits.restore_cleaner()
        if state.mirror is not None:
            state.mirror.put("user", dict.fromkeys(keys))
            state.mirror.put("session", dict.fromkeys(subjects.sessions))
            state.mirror.flush(state.offset)
        return removed

    def _delete_from_memory(
        self, subjects: SubjectIds, keys: Collection[str], mentions: Iterable[bytes]
    ) -> None:
        """Delete from memory what was deleted from the store."""
        state = self._state
        for entity, names in (("user", keys), ("session", subjects.sessions)):
            if entity in state.tables:
                state.tables[entity].forget(names)
        for operator in state.operators:
            for key in (*keys, *subjects.sessions):
                operator.detach(key)
        self._reload_mentions(subjects, mentions)
        for operator in state.operators:
            operator.pack_changes()  # nothing else has changed since the commit
        state.users.delete(subjects.users)
        state.outbox.delete(lambda action: names_subject(action, subjects))
        state.transfers.delete(lambda entry: names_subject(entry, subjects))
        if state.resolver is not None:
            state.resolver.drop(subjects.users, subjects.devices | subjects.shared)
        for consumer in state.options.consumers.values():
            consumer.delete_users(keys)

    def _reload_mentions(self, subjects: SubjectIds, mentions: Iterable[bytes]) -> None:
        """Reload entities and partial matches of others that named the users."""
        state = self._state
        operators = {operator.name: operator for operator in state.operators}
        drops = drops_of(subjects)
        for stored in mentions:
            blob = state.store.get(stored)
            if not stored.startswith(OPERATOR):
                entity, _, key = entity_key(stored)
                state.tables[entity].drop_texts([key], drops)
                if state.mirror is not None:
                    state.mirror.put(entity, {key: blob})
                continue
            name, _, key = operator_key(stored)
            if name in operators:
                operators[name].detach(key)
                if blob is not None:
                    operators[name].unpack(key, blob)
