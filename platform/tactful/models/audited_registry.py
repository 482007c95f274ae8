"""Open the model registry of an installation, with its audit log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tactful.config.settings import Settings
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import ModelLog
from tactful.models.mlflow_registry import Registry
from tactful.util.clock import now_ms


@contextlib.contextmanager
def open_model_log(settings: Settings) -> Iterator[ModelLog]:
    """Open the audit log of models while the context lasts.

    Raises:
        StorageError: if the metadata cannot be used.
    """
    settings.storage.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(open_installation(settings)) as metadata:
        yield ModelLog(metadata, clock=now_ms)


@contextlib.contextmanager
def audited_registry(settings: Settings, name: str, *, by: str | None = None) -> Iterator[Registry]:
    """Open the model registry, whose changes are recorded, while the context lasts."""
    with open_model_log(settings) as audit:
        yield Registry(name, settings.models, audit=audit, by=by)
