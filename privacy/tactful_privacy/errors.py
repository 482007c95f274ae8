"""Everything this package raises on purpose.

* ``PrivacyError``
    * ``ParameterError``: a parameter is outside what the guarantee was proved for
    * ``BudgetError``: the day's privacy budget does not allow it
    * ``StateError``: a snapshot does not belong here or is damaged
    * ``KeyringError``: keys of pseudonyms are missing or damaged
    * ``VaultError``: the vault of data keys cannot be used
    * ``SealError``: sealed bytes cannot be opened: their key was deleted, or they were changed
    * ``LedgerError``: the ledger cannot do what was asked
        * ``UnknownStatisticError``: no statistic of that name is registered
    * ``BackendError``: a library that was asked for is not installed
"""


class PrivacyError(Exception):
    """Root of every error of this package."""


class ParameterError(PrivacyError, ValueError):
    """A parameter is outside the range for which the guarantee holds."""


class BudgetError(PrivacyError, ValueError):
    """Accepting this would exceed the privacy budget of one user and one UTC day."""


class StateError(PrivacyError, ValueError):
    """A snapshot is damaged, or was made with another secret or another definition."""


class KeyringError(PrivacyError, RuntimeError):
    """The keys of pseudonyms are missing, damaged or of another installation."""


class VaultError(PrivacyError, RuntimeError):
    """The vault cannot be used, or its master key is another one."""


class SealError(PrivacyError, ValueError):
    """Sealed bytes cannot be opened: their key was deleted, or they were changed or moved."""


class LedgerError(PrivacyError, RuntimeError):
    """The ledger cannot do what was asked."""


class UnknownStatisticError(LedgerError, LookupError):
    """No statistic of that name is registered in the ledger."""


class BackendError(PrivacyError, ImportError):
    """A library that was asked for is not installed."""
