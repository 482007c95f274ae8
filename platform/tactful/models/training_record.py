"""Record of a training beside its model: what readers of the registry compare, without MLflow.

It is ``training.json`` in the directory of a version, signed with the other files. Versions of
earlier releases have none.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tactful.errors import ModelError
from tactful.schemas.models import Bounds, Loss, ServedDrift
from tactful_privacy.decoding import DECODE_ERRORS

_FILE = "training.json"


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of a training.

    Attributes:
        trained_at: time at which it ended, epoch milliseconds.
        seconds: its duration.
        trees: number of trees that are used.
        curve: NDCG@20 on the held-back lists after each tree.
        intervals: of the figures of the held-back lists.
        losses: of HR@20 and NDCG@20 without each group of columns.
        served: drift and skew of the version that served meanwhile.
        run_path: path of the run in the pages of MLflow.
    """

    trained_at: int
    seconds: float
    trees: int
    curve: list[float]
    intervals: dict[str, Bounds]
    losses: dict[str, dict[str, Loss]] = {}
    served: ServedDrift = ServedDrift()
    run_path: str = ""


def write_record(directory: Path, record: TrainingRecord) -> None:
    """Write the record into a model directory, before it is signed."""
    (directory / _FILE).write_bytes(msgspec.json.encode(record))


def read_record(directory: Path) -> TrainingRecord | None:
    """Read the record of a model directory; None for a version without one.

    Raises:
        ModelError: if it is damaged.
    """
    path = directory / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingRecord)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        raise ModelError(f"{path}: cannot be read as a record of a training: {error}") from error
