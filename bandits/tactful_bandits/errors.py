"""Errors of the experimentation package."""


class ExperimentError(Exception):
    """Base of all errors that this package raises on purpose."""


class DefinitionError(ExperimentError, ValueError):
    """An experiment definition is wrong; the message names the place and the remedy."""


class AssignmentError(ExperimentError, ValueError):
    """A unit cannot be assigned: it is empty, or the forced arm does not exist."""


class LifecycleError(ExperimentError, ValueError):
    """The rollout's state does not allow the operation, or data are no stored rollout."""


class StatisticsError(ExperimentError, ValueError):
    """The data for a statistic are impossible or too few."""


class PolicyError(ExperimentError, ValueError):
    """Settings, features, rewards or a state do not fit a decision policy."""


class EvaluationError(ExperimentError, ValueError):
    """Logged decisions do not fit each other or the policy to evaluate."""


class MissingExtraError(ExperimentError, ImportError):
    """A module needs packages of the extra ``tuner``, which is not installed."""
