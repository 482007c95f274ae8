"""Recall for a server without a model: learned from the log every so often, in a process.

`tactful serve` starts ``tactful train --recall-only`` while there is no champion and the log has
grown, so that lists follow similar visits before anything is trained. The index lies in
``models/live`` and goes once a champion serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tactful.config.settings import Settings
from tactful.models.training_run import open_training_log
from tactful.ranking.model import read_pointer, untrained_recall
from tactful.recall.index import RecallIndex, build_index
from tactful.training.history import History
from tactful.understanding.item_vectors import working_item_vectors

_FEWEST = 20


def learn_recall(
    settings: Settings, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> RecallIndex | None:
    """Build the recall index of the whole log for servers without a model.

    None where the log holds too little, or where a champion serves.

    Raises:
        ConfigError: if the feature definitions are wrong.
        ModelError: if the log cannot be read.
    """
    if read_pointer(settings.models) is not None:
        return None
    with open_training_log(settings) as (log, _):
        history = History.read(log, progress=progress)
    if len(history.item) < _FEWEST:
        return None
    with working_item_vectors(settings) as encoded:
        index = build_index(
            history.item_ids,
            history.interactions(),
            items=history.descriptions(),
            encoded=encoded,
            cohorts=history.cohorts(),
        )
    index = replace(index, pairs=history.common_pairs(settings.recommend.anonymous_minimum))
    index.save(untrained_recall(settings.models))
    return index
