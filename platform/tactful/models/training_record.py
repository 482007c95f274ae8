"""Record of a training beside its model: what readers of the registry compare, without MLflow.

It is ``training.json`` in the directory of a version, signed with the other files. Versions of
earlier releases have none.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tactful.errors import ModelError
from tactful.training.ablation import Loss
from tactful_privacy.decoding import DECODE_ERRORS

_FILE = "training.json"


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """95 % interval over users.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


class ServedDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Drift and skew of the version that served while another one was trained.

    Attributes:
        version: version that served; empty for none.
        drift: population stability index by column, of its latest 500 recommendations against its
            first 500, largest first; empty with fewer.
        skew: share of served values that differ from those computed again; None if none was
            compared.
        skew_by_feature: share by column, where there are differences.
    """

    version: str = ""
    drift: dict[str, float] = {}
    skew: float | None = None
    skew_by_feature: dict[str, float] = {}


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a training measured.

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
