"""Private statistics: exact noise, bounded contributions, a durable ledger of releases."""

from tactful_privacy.bounding import BoundedCounts, Pane
from tactful_privacy.consistency import ConsistentPeriod, consistent
from tactful_privacy.errors import (
    BudgetError,
    LedgerError,
    ParameterError,
    PrivacyError,
    StateError,
    UnknownStatisticError,
)
from tactful_privacy.gaussian import DiscreteGaussian
from tactful_privacy.laplace import DiscreteLaplace
from tactful_privacy.ledger import Ledger, Page, Release
from tactful_privacy.quantiles import ReleasedQuantile, quantile_released
from tactful_privacy.ranking import RankedKey, top_released
from tactful_privacy.release import Publisher
from tactful_privacy.released import (
    ReleasedPage,
    ReleasedPane,
    ReleasedSum,
    read_released,
    sum_released,
)
from tactful_privacy.selection import (
    Choice,
    exponential_mechanism,
    permute_and_flip,
    report_noisy_max,
)
from tactful_privacy.shares import ReleasedShare, share_released
from tactful_privacy.statistic import Statistic
from tactful_privacy.threshold import ThresholdRelease
from tactful_privacy.wide_laplace import WideLaplace

__all__ = [
    "BoundedCounts",
    "BudgetError",
    "Choice",
    "ConsistentPeriod",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "Ledger",
    "LedgerError",
    "Page",
    "Pane",
    "ParameterError",
    "PrivacyError",
    "Publisher",
    "RankedKey",
    "Release",
    "ReleasedPage",
    "ReleasedPane",
    "ReleasedQuantile",
    "ReleasedShare",
    "ReleasedSum",
    "StateError",
    "Statistic",
    "ThresholdRelease",
    "UnknownStatisticError",
    "WideLaplace",
    "consistent",
    "exponential_mechanism",
    "permute_and_flip",
    "quantile_released",
    "read_released",
    "report_noisy_max",
    "share_released",
    "sum_released",
    "top_released",
]
