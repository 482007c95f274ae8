"""Exceptions of the package, all derived from `FederatedError`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager


class FederatedError(Exception):
    """Base class of every exception that this package raises."""


class VocabularyError(FederatedError, ValueError):
    """The catalogue is empty or repeats a category, or a token lies outside it."""


class HistoryError(FederatedError, ValueError):
    """There are too few devices, or their histories are too short."""


class SettingsError(FederatedError, ValueError):
    """A setting lies outside its range."""


class WeightsError(FederatedError, ValueError):
    """Weights or an update have the wrong shape or a value that is not finite."""


class MissingExtraError(FederatedError, ImportError):
    """An optional dependency is not installed."""


@contextmanager
def extra(name: str = "federated") -> Iterator[None]:
    """Import optional dependencies in this context.

    Raises:
        MissingExtraError: A module is not installed; the message names the extra that has it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this part of tactful_federated needs {error.name!r}, which is not installed; "
            f"install it with: pip install 'tactful[{name}]'",
            name=error.name,
        ) from error


def require(condition: bool, message: str) -> None:
    """Raise `SettingsError(message)` unless `condition` holds."""
    if not condition:
        raise SettingsError(message)


def require_positive(settings: object, *names: str) -> None:
    """Raise `SettingsError` unless these attributes are finite and above 0."""
    for name in names:
        value = getattr(settings, name)
        require(0 < value < math.inf, f"{name} is {value}: give a finite number above 0")


class SecureSumError(FederatedError, RuntimeError):
    """A secure sum was aborted: too few devices, or a protocol violation."""


class BudgetError(FederatedError, RuntimeError):
    """The privacy budget of the run does not cover the request."""


class CheckpointError(FederatedError, RuntimeError):
    """A run's directory is in use, damaged, older than its ledger or of another run."""


class ConsentError(FederatedError, PermissionError):
    """The user did not consent to the operation."""


class StoreError(FederatedError, RuntimeError):
    """A store on the device has another key, is damaged or was altered."""


class PackageError(FederatedError, ValueError):
    """A model package has no trusted signature, is not newer, or does not work."""
