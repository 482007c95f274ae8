"""Private statistics: exact noise, bounded counts, a durable ledger.

The package owns differential privacy, consent, pseudonyms and the vault of data keys. It may not
import HTTP, queues or models. Begin reading at `Statistic` (the public definition of a release),
`BoundedCounts` (exact counts), `Ledger` and `Publisher`. Importing the package loads the errors
only; other names are loaded at their first use, so that a serving worker loads no SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tactful_privacy.errors import (
    BudgetError,
    KeyringError,
    LedgerError,
    ParameterError,
    PrivacyError,
    SealError,
    StateError,
    UnknownStatisticError,
    VaultError,
)

if TYPE_CHECKING:
    from tactful_privacy.analysis.consistency import consistent
    from tactful_privacy.analysis.quantiles import quantile_released
    from tactful_privacy.analysis.shares import share_released
    from tactful_privacy.analysis.top_k import top_released
    from tactful_privacy.counting.bounded_counts import BoundedCounts
    from tactful_privacy.counting.heavy_hitters import BoundedKeys, KeysPublisher
    from tactful_privacy.counting.publisher import Publisher
    from tactful_privacy.counting.released import (
        CONFIDENCE,
        ReleasedPane,
        delta_of,
        method_of,
        read_released,
        sum_released,
    )
    from tactful_privacy.ledger.budget import Budget, Charge, refuse_overspending
    from tactful_privacy.ledger.cap_choice import CapChoice
    from tactful_privacy.ledger.ledger import Ledger, Release
    from tactful_privacy.ledger.merge import merge_ledger
    from tactful_privacy.ledger.odometer import Odometer, Spend, read_odometer
    from tactful_privacy.ledger.query import Answer, Query
    from tactful_privacy.ledger.statistic import (
        FOUND_KEYS,
        GAUSSIAN_TOTALS,
        PANES,
        RUNNING_TOTALS,
        UNIT,
        Statistic,
    )
    from tactful_privacy.mechanisms.backends import (
        DiffprivlibGeometric,
        Noise,
        OpenDPLaplace,
        laplace_noise,
    )
    from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
    from tactful_privacy.mechanisms.laplace import DiscreteLaplace
    from tactful_privacy.mechanisms.local import OneHotReport, RandomizedResponse
    from tactful_privacy.mechanisms.threshold import ThresholdRelease
    from tactful_privacy.mechanisms.wide_gaussian import WideGaussian
    from tactful_privacy.mechanisms.wide_laplace import WideLaplace
    from tactful_privacy.people.consent import (
        EVERYTHING,
        NOTHING,
        Consents,
        Decision,
        Purpose,
        parse_purposes,
    )
    from tactful_privacy.people.pseudonyms import Keyring, Pseudonym, Suppressed
    from tactful_privacy.people.vault import Vault
    from tactful_privacy.people.vault_merge import drop_keys, merge_vault
    from tactful_privacy.people.vault_rotation import rewrap_vault

__all__ = [
    "CONFIDENCE",
    "EVERYTHING",
    "FOUND_KEYS",
    "GAUSSIAN_TOTALS",
    "NOTHING",
    "PANES",
    "RUNNING_TOTALS",
    "UNIT",
    "Answer",
    "BoundedCounts",
    "BoundedKeys",
    "Budget",
    "BudgetError",
    "CapChoice",
    "Charge",
    "Consents",
    "Decision",
    "DiffprivlibGeometric",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Keyring",
    "KeyringError",
    "KeysPublisher",
    "Ledger",
    "LedgerError",
    "Noise",
    "Odometer",
    "OneHotReport",
    "OpenDPLaplace",
    "ParameterError",
    "PrivacyError",
    "Pseudonym",
    "Publisher",
    "Purpose",
    "Query",
    "RandomizedResponse",
    "Release",
    "ReleasedPane",
    "SealError",
    "Spend",
    "StateError",
    "Statistic",
    "Suppressed",
    "ThresholdRelease",
    "UnknownStatisticError",
    "Vault",
    "VaultError",
    "WideGaussian",
    "WideLaplace",
    "consistent",
    "delta_of",
    "drop_keys",
    "laplace_noise",
    "merge_ledger",
    "merge_vault",
    "method_of",
    "parse_purposes",
    "quantile_released",
    "read_odometer",
    "read_released",
    "refuse_overspending",
    "rewrap_vault",
    "share_released",
    "sum_released",
    "top_released",
]

_LOADED_WHEN_USED = {
    "Answer": "ledger.query",
    "BoundedCounts": "counting.bounded_counts",
    "BoundedKeys": "counting.heavy_hitters",
    "Budget": "ledger.budget",
    "CONFIDENCE": "counting.released",
    "CapChoice": "ledger.cap_choice",
    "Charge": "ledger.budget",
    "Consents": "people.consent",
    "Decision": "people.consent",
    "DiffprivlibGeometric": "mechanisms.backends",
    "DiscreteGaussian": "mechanisms.gaussian",
    "DiscreteLaplace": "mechanisms.laplace",
    "EVERYTHING": "people.consent",
    "FOUND_KEYS": "ledger.statistic",
    "GAUSSIAN_TOTALS": "ledger.statistic",
    "Keyring": "people.pseudonyms",
    "KeysPublisher": "counting.heavy_hitters",
    "Ledger": "ledger.ledger",
    "NOTHING": "people.consent",
    "Noise": "mechanisms.backends",
    "Odometer": "ledger.odometer",
    "OneHotReport": "mechanisms.local",
    "OpenDPLaplace": "mechanisms.backends",
    "PANES": "ledger.statistic",
    "Pseudonym": "people.pseudonyms",
    "Publisher": "counting.publisher",
    "Purpose": "people.consent",
    "Query": "ledger.query",
    "RUNNING_TOTALS": "ledger.statistic",
    "RandomizedResponse": "mechanisms.local",
    "Release": "ledger.ledger",
    "ReleasedPane": "counting.released",
    "Spend": "ledger.odometer",
    "Statistic": "ledger.statistic",
    "Suppressed": "people.pseudonyms",
    "ThresholdRelease": "mechanisms.threshold",
    "UNIT": "ledger.statistic",
    "Vault": "people.vault",
    "WideGaussian": "mechanisms.wide_gaussian",
    "WideLaplace": "mechanisms.wide_laplace",
    "consistent": "analysis.consistency",
    "delta_of": "counting.released",
    "drop_keys": "people.vault_merge",
    "laplace_noise": "mechanisms.backends",
    "merge_ledger": "ledger.merge",
    "merge_vault": "people.vault_merge",
    "method_of": "counting.released",
    "parse_purposes": "people.consent",
    "quantile_released": "analysis.quantiles",
    "read_odometer": "ledger.odometer",
    "read_released": "counting.released",
    "refuse_overspending": "ledger.budget",
    "rewrap_vault": "people.vault_rotation",
    "share_released": "analysis.shares",
    "sum_released": "counting.released",
    "top_released": "analysis.top_k",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return __all__
