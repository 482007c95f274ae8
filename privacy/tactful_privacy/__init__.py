"""Private statistics: exact noise, bounded contributions, a durable ledger of releases."""

from tactful_privacy.accounting import (
    Composed,
    compose,
    largest_belief,
    tightest,
)
from tactful_privacy.bounding import BoundedCounts, Pane
from tactful_privacy.budget import (
    Budget,
    Charge,
    Loss,
    refuse_overspending,
)
from tactful_privacy.cap_choice import (
    CapChoice,
)
from tactful_privacy.consent import (
    EVERYTHING,
    NOTHING,
    Consents,
    Decision,
    Purpose,
    parse_purposes,
)
from tactful_privacy.consistency import ConsistentPeriod, consistent
from tactful_privacy.daily_caps import (
    cap_query,
    chosen_caps,
    decide_cap,
)
from tactful_privacy.errors import (
    BackendError,
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
from tactful_privacy.gaussian import DiscreteGaussian
from tactful_privacy.heavy_hitters import BoundedKeys, KeysPublisher
from tactful_privacy.laplace import DiscreteLaplace
from tactful_privacy.ledger import Ledger, Page, Release
from tactful_privacy.ledger_merge import merge_ledger
from tactful_privacy.local import Estimate, OneHotReport, RandomizedResponse
from tactful_privacy.noise import DiffprivlibGeometric, Noise, OpenDPLaplace, laplace_noise
from tactful_privacy.odometer import (
    Odometer,
    Room,
    Spend,
    read_odometer,
)
from tactful_privacy.pseudonyms import Keyring, Pseudonym, Suppressed
from tactful_privacy.quantiles import ReleasedQuantile, quantile_released
from tactful_privacy.query import (
    Answer,
    Query,
)
from tactful_privacy.ranking import RankedKey, top_released
from tactful_privacy.release import Publisher
from tactful_privacy.released import (
    CONFIDENCE,
    ReleasedPage,
    ReleasedPane,
    ReleasedSum,
    delta_of,
    method_of,
    read_released,
    sum_released,
)
from tactful_privacy.shares import ReleasedShare, share_released
from tactful_privacy.statistic import (
    FOUND_KEYS,
    GAUSSIAN_TOTALS,
    PANES,
    RUNNING_TOTALS,
    UNIT,
    Statistic,
)
from tactful_privacy.threshold import ThresholdRelease
from tactful_privacy.vault import Vault
from tactful_privacy.vault_merge import drop_keys, merge_vault
from tactful_privacy.vault_rotation import rewrap_vault
from tactful_privacy.wide_gaussian import WideGaussian
from tactful_privacy.wide_laplace import WideLaplace

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
    "BackendError",
    "BoundedCounts",
    "BoundedKeys",
    "Budget",
    "BudgetError",
    "CapChoice",
    "Charge",
    "Composed",
    "Consents",
    "ConsistentPeriod",
    "Decision",
    "DiffprivlibGeometric",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Estimate",
    "Keyring",
    "KeyringError",
    "KeysPublisher",
    "Ledger",
    "LedgerError",
    "Loss",
    "Noise",
    "Odometer",
    "OneHotReport",
    "OpenDPLaplace",
    "Page",
    "Pane",
    "ParameterError",
    "PrivacyError",
    "Pseudonym",
    "Publisher",
    "Purpose",
    "Query",
    "RandomizedResponse",
    "RankedKey",
    "Release",
    "ReleasedPage",
    "ReleasedPane",
    "ReleasedQuantile",
    "ReleasedShare",
    "ReleasedSum",
    "Room",
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
    "cap_query",
    "chosen_caps",
    "compose",
    "consistent",
    "decide_cap",
    "delta_of",
    "drop_keys",
    "laplace_noise",
    "largest_belief",
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
    "tightest",
    "top_released",
]
