"""Private statistics: exact noise, bounded counts, a durable ledger.

The package owns differential privacy, consent, pseudonyms and the vault of data keys. It may not
import HTTP, queues or models. Begin reading at `Statistic` (the public definition of a release),
`BoundedCounts` (exact counts), `Ledger` and `Publisher`. Importing the package loads the errors
only; other names are loaded at their first use, so that a serving worker loads no SQLAlchemy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from tactful_privacy.lazy_imports import lazy_names

if TYPE_CHECKING:
    from tactful_privacy.analysis.conclusions import (
        mean_released,
        quantile_released,
        share_released,
        top_released,
    )
    from tactful_privacy.analysis.consistency import consistent
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
    from tactful_privacy.ledger.amounts import Amounts
    from tactful_privacy.ledger.budget import Budget, Charge, refuse_overspending
    from tactful_privacy.ledger.ledger import Ledger, Release
    from tactful_privacy.ledger.merge import merge_ledger
    from tactful_privacy.ledger.odometer import Odometer, Spend, read_odometer
    from tactful_privacy.ledger.query import Answer, Query
    from tactful_privacy.ledger.statistic import (
        FOUND_KEYS,
        GAUSSIAN_PANES,
        GAUSSIAN_TOTALS,
        PANES,
        RUNNING_TOTALS,
        UNIT,
        CapChoice,
        Statistic,
    )
    from tactful_privacy.mechanisms.backends import (
        DiffprivlibGeometric,
        Noise,
        OpenDPLaplace,
        laplace_noise,
    )
    from tactful_privacy.mechanisms.gaussian import DiscreteGaussian, WideGaussian
    from tactful_privacy.mechanisms.laplace import DiscreteLaplace, WideLaplace
    from tactful_privacy.mechanisms.local import OneHotReport, RandomizedResponse
    from tactful_privacy.mechanisms.threshold import ThresholdRelease
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
    from tactful_privacy.people.vault_file import drop_keys, merge_vault, rewrap_vault

__all__ = [
    "CONFIDENCE",
    "EVERYTHING",
    "FOUND_KEYS",
    "GAUSSIAN_PANES",
    "GAUSSIAN_TOTALS",
    "NOTHING",
    "PANES",
    "RUNNING_TOTALS",
    "UNIT",
    "Amounts",
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
    "mean_released",
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

_LAZY = {
    "analysis.conclusions": "mean_released quantile_released share_released top_released",
    "analysis.consistency": "consistent",
    "counting.bounded_counts": "BoundedCounts",
    "counting.heavy_hitters": "BoundedKeys KeysPublisher",
    "counting.publisher": "Publisher",
    "counting.released": "CONFIDENCE ReleasedPane delta_of method_of read_released sum_released",
    "ledger.amounts": "Amounts",
    "ledger.budget": "Budget Charge refuse_overspending",
    "ledger.ledger": "Ledger Release",
    "ledger.merge": "merge_ledger",
    "ledger.odometer": "Odometer Spend read_odometer",
    "ledger.query": "Answer Query",
    "ledger.statistic": (
        "CapChoice FOUND_KEYS GAUSSIAN_PANES GAUSSIAN_TOTALS PANES RUNNING_TOTALS Statistic UNIT"
    ),
    "mechanisms.backends": "DiffprivlibGeometric Noise OpenDPLaplace laplace_noise",
    "mechanisms.gaussian": "DiscreteGaussian WideGaussian",
    "mechanisms.laplace": "DiscreteLaplace WideLaplace",
    "mechanisms.local": "OneHotReport RandomizedResponse",
    "mechanisms.threshold": "ThresholdRelease",
    "people.consent": "Consents Decision EVERYTHING NOTHING Purpose parse_purposes",
    "people.pseudonyms": "Keyring Pseudonym Suppressed",
    "people.vault": "Vault",
    "people.vault_file": "drop_keys merge_vault rewrap_vault",
}
__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
