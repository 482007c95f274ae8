"""Errors of the experimentation package.

* ExperimentError
    * DefinitionError (ValueError): an experiment as written cannot be run
    * AssignmentError (ValueError): this unit or this forced arm cannot be assigned
    * LifecycleError (ValueError): a rollout cannot do this in its state
    * StatisticsError (ValueError): these totals cannot be compared
    * PolicyError (ValueError): settings, features, rewards or a state do not fit a policy
    * EvaluationError (ValueError): these logged decisions cannot be evaluated
    * MissingExtraError (ImportError): a module needs an extra that is not installed
"""


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
