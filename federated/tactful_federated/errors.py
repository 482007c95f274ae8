"""What can go wrong here, one small hierarchy."""

from __future__ import annotations


class FederatedError(Exception):
    """Root of every error this package raises on purpose."""


class VocabularyError(FederatedError, ValueError):
    """A public catalogue cannot be made a vocabulary, or a token lies outside it."""


class HistoryError(FederatedError, ValueError):
    """The histories given are too few or too short for what was asked."""


class SettingsError(FederatedError, ValueError):
    """A setting lies outside its range."""


class WeightsError(FederatedError, ValueError):
    """A flat vector of model weights has the wrong shape or holds a value that is not finite."""


class MissingExtraError(FederatedError, ImportError):
    """A part that needs an optional dependency was used without it."""


def missing_extra(error: ImportError, *, extra: str = "federated") -> MissingExtraError:
    """Name the extra that brings the module `error` could not find."""
    return MissingExtraError(
        f"this part of tactful_federated needs {error.name!r}, which is not installed; "
        f"install it with: pip install 'tactful[{extra}]'",
        name=error.name,
    )


def require(condition: bool, message: str) -> None:
    """Raise `SettingsError(message)` unless `condition` holds."""
    if not condition:
        raise SettingsError(message)


class SecureSumError(FederatedError, RuntimeError):
    """A secure sum was given up: too few devices, or somebody did not keep to the protocol."""


class BudgetError(FederatedError, RuntimeError):
    """What was asked for is not covered by the privacy budget of the run."""


class CheckpointError(FederatedError, RuntimeError):
    """A directory of a run is in use, damaged, older than its ledger, or of another run."""


class ConsentError(FederatedError, PermissionError):
    """The person did not agree to what was asked."""


class StoreError(FederatedError, RuntimeError):
    """A store on the device cannot be used: another key, damaged, or changed from outside."""


class PackageError(FederatedError, ValueError):
    """A model package is not signed by whom this device trusts, is older, or does not work."""
