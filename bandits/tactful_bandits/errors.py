"""Errors of the experimentation package.

* ExperimentError
    * DefinitionError (ValueError): an experiment as written cannot be run
    * AssignmentError (ValueError): this unit or this forced arm cannot be assigned
    * LifecycleError (ValueError): a rollout cannot do this in its state
    * StatisticsError (ValueError): these totals cannot be compared
    * PolicyError (ValueError): a policy cannot be made, asked or taught like this
    * EvaluationError (ValueError): these logged decisions cannot be evaluated
    * MissingExtraError (ImportError): a module needs an extra that is not installed
"""


class ExperimentError(Exception):
    """Root of every error this package raises on purpose."""


class DefinitionError(ExperimentError, ValueError):
    """An experiment definition is wrong; the message names the place and the remedy."""


class AssignmentError(ExperimentError, ValueError):
    """A unit cannot be assigned: it is empty, or the forced arm does not exist."""


class LifecycleError(ExperimentError, ValueError):
    """A rollout cannot do what was asked in the state it is in, or the data are none of one."""


class StatisticsError(ExperimentError, ValueError):
    """The data given to a statistic are impossible or too few for it."""


class PolicyError(ExperimentError, ValueError):
    """A decision policy was given settings, features, rewards or a state that it cannot take."""


class EvaluationError(ExperimentError, ValueError):
    """Logged decisions do not fit each other, or the policy that is to be evaluated on them."""


class MissingExtraError(ExperimentError, ImportError):
    """A module needs packages of the extra ``tuner``, which is not installed."""
