"""Measure the live quality of an installation: for `tactful models quality`."""

from __future__ import annotations

from tactful.config.settings import Settings
from tactful.errors import ModelError
from tactful.models.kept_quality import keep_quality
from tactful.models.live_quality import LATEST, measure
from tactful.models.training_run import open_training_log
from tactful.ranking.model import checked_version, read_manifest, read_pointer
from tactful.schemas.models import LiveQuality
from tactful.util.clock import now_ms

_WEAKEST = "click"  # label of a server without a model


def measure_quality(settings: Settings) -> LiveQuality:
    """Measure the days in the newest records of the log, and keep them for readers.

    An item counts as taken by the label of the settings, else by that of the champion.

    Raises:
        ConfigError: if the feature definitions are wrong.
        ModelError: if the log cannot be read.
    """
    label = settings.training.label or _label(settings)
    with open_training_log(settings, latest=LATEST) as (log, _):
        days = measure(log, label=label)
    return keep_quality(settings.models, days, now=now_ms(), label=label)


def _label(settings: Settings) -> str:
    try:
        pointer = read_pointer(settings.models)
        if pointer is None:
            return _WEAKEST
        place = checked_version(settings.models, pointer.version, None)
        return read_manifest(place).label or _WEAKEST
    except ModelError:
        return _WEAKEST
