"""Place of the checkpoints of workers, by the settings."""

from __future__ import annotations

from pathlib import Path

from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful_streaming.errors import ObjectStoreError
from tactful_streaming.state.checkpoints import (
    OpenCheckpoints,
    checkpoints_in_folder,
    stored_checkpoints,
)


def checkpoint_place(settings: Settings) -> OpenCheckpoints | None:
    """Return a function that opens the checkpoints of a partition; None if there are none.

    Raises:
        ConfigError: if ``worker.checkpoints_url`` names no place of objects.
    """
    share = settings.worker
    if share.checkpoints_url:
        try:
            return stored_checkpoints(share.checkpoints_url, settings.storage.data / "partitions")
        except ObjectStoreError as error:
            raise ConfigError(f"worker.checkpoints_url: {error}") from error
    return None if share.checkpoints == Path() else checkpoints_in_folder(share.checkpoints)
