"""Errors of this package, as one tree; `tactful.schemas.problems` adds `ProblemError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tactful.schemas.problems import Problem


class TactfulError(Exception):
    """Root of all errors of this package."""


class ConfigError(TactfulError, ValueError):
    """A setting is unknown or out of range; the message names the file or variable and the key."""


class StorageError(TactfulError, OSError):
    """The data directory cannot be opened, or another process is using it."""


class BackupError(StorageError):
    """A backup cannot be made, is damaged or partial, or does not fit its target."""


class ModelError(TactfulError, ValueError):
    """A model or a recall index is missing, damaged or does not fit the features."""


class UnknownVersion(ModelError):
    """The registry has no version of this name."""


class SignatureError(ModelError):
    """A signature is missing or wrong, or its key is not trusted."""


class UnsupportedForest(ModelError):
    """A forest needs XGBoost to evaluate; the message names the reason."""


class TrainingBusy(ModelError):
    """Another process trains the same model; the message says where."""


class NotPersonal(TactfulError):
    """The user has not agreed to the use of their history; it was not read."""


class DatasetError(TactfulError, ValueError):
    """A data set is missing or is not what it should be."""


class PictureError(TactfulError, ValueError):
    """A picture is too large, animated, damaged or of a format that is not read."""


class ApiKeyError(TactfulError, ValueError):
    """An API key cannot be made or revoked as asked."""


class ImportRefused(TactfulError, ValueError):
    """An import is undone, or its id is used for another one."""


class RequestRefused(TactfulError):
    """A server that is not ours, such as Flink, refused a request."""


class ClientError(TactfulError):
    """The client got no usable answer."""


class ConnectionFailed(ClientError, ConnectionError):
    """Nothing answered at the address, or the connection broke, in every attempt."""


class ApiError(ClientError):
    """The server answered with an error.

    Attributes:
        status: HTTP status.
        problem: the problem details as sent.
    """

    def __init__(self, status: int, problem: Problem) -> None:
        """Carry the problem; the message is its title, detail and request id."""
        said = f"{status} {problem.title}"
        if problem.detail:
            said += f": {problem.detail}"
        if problem.request_id:
            said += f" (request {problem.request_id})"
        super().__init__(said)
        self.status = status
        self.problem = problem


class BadRequest(ApiError, ValueError):
    """The request was wrong; sending it again will not help."""


class NotAllowed(ApiError, PermissionError):
    """There was no valid API key, or the key lacks the scope."""


class Busy(ApiError):
    """The server had no room or was not ready, also after the retries.

    Attributes:
        retry_after: seconds after which the server wants to be asked again; None if it did not say.
    """

    def __init__(self, status: int, problem: Problem, *, retry_after: float | None = None) -> None:
        """Carry the problem and the pause; the message tells both."""
        super().__init__(status, problem)
        self.retry_after = retry_after
        if retry_after is not None:
            self.args = (f"{self.args[0]}; try again in {retry_after:.0f} s",)


class ServerFault(ApiError):
    """The server failed; its log has the reason under the request id."""


class QueueError(ClientError, OSError):
    """The file of a client's queue cannot be used; the message names it."""


class QueueFull(QueueError):
    """The queue has no room for these events; none of them was taken."""
