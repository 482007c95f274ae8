"""The latest fit of a shop, in a file of the data directory; it holds nothing of one user."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from tactful.lifecycle.model import ReturnModel
from tactful.util.changed_file import ChangedFile
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

logger = logging.getLogger(__name__)

FILE: Final = "lifecycle.json"
"""Name of the file in the data directory."""


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a fit: a model, or the reason why there is none yet.

    Attributes:
        fitted_on: day of the fit, days since the epoch.
        horizon_days: days within which a return is predicted.
        people: users whose visits were read.
        priced: whether any user has spent something; True until a pass over the users has shown
            that nobody has, so that no number of visits is taken for money.
        model: parameters; None if too little is known.
        reason: why there is no model; empty with one.
        calibrated: whether the probabilities were calibrated on the last `horizon_days`.
        brier: mean squared error of the probabilities there, after calibration.
        base_brier: the same for the share of users who returned, as everybody's probability.
    """

    fitted_on: int
    horizon_days: int
    people: int
    priced: bool = True
    model: ReturnModel | None = None
    reason: str = ""
    calibrated: bool = False
    brier: float | None = None
    base_brier: float | None = None


class FittedFile:
    """The latest fit, read again when it was replaced."""

    def __init__(self, data: Path) -> None:
        """Follow the file of a data directory."""
        self._file = ChangedFile(data / FILE)
        self._fitted: Fitted | None = None

    def read(self) -> Fitted | None:
        """Return the latest fit; None before the first, or if the file is damaged."""
        if self._file.changed():
            try:
                self._fitted = msgspec.json.decode(self._file.path.read_bytes(), type=Fitted)
            except (OSError, *DECODE_ERRORS) as error:
                logger.warning("%s cannot be read: %s; it is fitted again", self._file.path, error)
                self._fitted = None
        return self._fitted

    def write(self, fitted: Fitted) -> None:
        """Replace the fit; OSError if the disk refuses."""
        replace_file(self._file.path, msgspec.json.encode(fitted))
