"""Errors of this package.

* ``PrivacyError``
    * ``ParameterError``
    * ``BudgetError``
    * ``StateError``
    * ``KeyringError``
    * ``VaultError``
    * ``SealError``
    * ``LedgerError``
        * ``UnknownStatisticError``
        * ``LedgerFencedError``
    * ``PermissionsError``
    * ``BackendError``
    * ``DriverError``
"""


class PrivacyError(Exception):
    """Root of every error of this package."""


class ParameterError(PrivacyError, ValueError):
    """A parameter is outside the range of the guarantee."""


class BudgetError(PrivacyError, ValueError):
    """A charge would exceed the privacy budget of one user and one UTC day."""


class StateError(PrivacyError, ValueError):
    """A snapshot is damaged, or was made with another secret or another definition."""


class KeyringError(PrivacyError, RuntimeError):
    """The keys of pseudonyms are missing, damaged or of another installation."""


class VaultError(PrivacyError, RuntimeError):
    """The vault cannot be used, or has another master key."""


class SealError(PrivacyError, ValueError):
    """Sealed bytes cannot be opened: key deleted, or bytes changed or moved."""


class LedgerError(PrivacyError, RuntimeError):
    """The ledger is damaged or unavailable, or refuses the request."""


class UnknownStatisticError(LedgerError, LookupError):
    """No statistic of that name is registered in the ledger."""


class LedgerFencedError(LedgerError):
    """Another process releases these panes now; nothing was stored."""


class PermissionsError(PrivacyError, OSError):
    """Other users of the machine own or may change private files."""


class BackendError(PrivacyError, ImportError):
    """The library of a noise backend is not installed."""


class DriverError(PrivacyError, ImportError):
    """The driver of a database server is not installed, or not supported."""
