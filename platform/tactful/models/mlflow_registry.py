"""The model registry: MLflow keeps the record, a models directory serves.

MLflow holds every run, version and alias. The serving process never imports it: a promotion
copies the version's files into the server's models directory and moves the pointer there, and the
server reads it within a second. MLflow is imported when a function is called, since that takes
seconds.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import ModelError, UnknownVersion
from tactful.models.audit_log import Action, ModelLog, login_and_host, open_model_log
from tactful.models.mlflow_run import (
    log_curve,
    log_figures,
    log_ranker,
    register_version,
    training_run,
)
from tactful.models.training_record import TrainingRecord, write_record
from tactful.ranking.model import (
    Manifest,
    Pointer,
    read_manifest,
    read_pointer,
    version_directory,
    write_pointer,
)
from tactful.util.signing import (
    SigningKey,
    check_directory,
    open_signing_key,
    sign_directory,
    trusted_keys,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from tactful.util.checkpoint import Checkpoint

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS = "previous"

_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # codes for a missing version
_LOCKED_S = 60.0  # that another process may hold the file of MLflow's store


@dataclass(frozen=True)
class Registered:
    """A version in the registry."""

    name: str
    version: str
    run_id: str


class Registry:
    """One registered model in MLflow and its copies in a models directory.

    ```text
    MLflow    versions 1, 2, 3; aliases champion → 2, previous → 1, challenger → 3
    models/   versions/1, versions/2, versions/3; the pointer names version 2 and previous 1
    ```
    """

    def __init__(
        self,
        name: str,
        models: Path,
        *,
        tracking_uri: str | None = None,
        audit: ModelLog | None = None,
        by: str | None = None,
        key: SigningKey | None = None,
    ) -> None:
        """Use a model and a directory.

        Args:
            name: registered model name.
            models: directory the server loads from; it holds versions of one name.
            tracking_uri: MLflow store; None means `MLFLOW_TRACKING_URI` or, without it,
                `sqlite:///mlflow.db` in the working directory.
            audit: log of promotions and rollbacks; None records none.
            by: their author; None means the login and host of this process.
            key: signs models, and checks those that are promoted or fetched; None does neither.
        """
        self._key = key
        self._audit = audit
        self._by = login_and_host() if by is None else by
        self._name = name
        self._models = models
        # Before MLflow is imported, so that it sends no telemetry unless an operator allows it.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"

    def check_store(self) -> None:
        """Check, before a training, that its result can be registered.

        MLflow itself retries for minutes where it cannot open its file.

        Raises:
            ModelError: if MLflow's store is a SQLite file that cannot be made or written.
        """
        file = self._file()
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)  # as MLflow does
            with closing(sqlite3.connect(file, timeout=_LOCKED_S, isolation_level=None)) as store:
                store.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error) as error:
            raise ModelError(
                f"{self._uri}: {file.absolute()} cannot be written ({error}); choose another store "
                "of MLflow by MLFLOW_TRACKING_URI, such as sqlite:////tmp/mlflow.db"
            ) from error

    def _file(self) -> Path | None:
        """Return the SQLite file of MLflow's store; None for other stores."""
        kind, separator, rest = self._uri.partition(":///")
        return Path(rest.partition("?")[0]) if separator and kind == "sqlite" else None

    @contextmanager
    def run(
        self, *, parameters: Mapping[str, Any], checkpoint: Checkpoint | None = None
    ) -> Iterator[str]:
        """Hold a run of MLflow open while a training lasts; see `training_run`."""
        with training_run(
            self._uri, self._name, parameters=parameters, checkpoint=checkpoint
        ) as run_id:
            yield run_id

    def register(
        self,
        directory: Path,
        *,
        example: NDArray[np.float32],
        figures: Mapping[str, Path],
        parameters: Mapping[str, Any] = MappingProxyType({}),
        metrics: Mapping[str, float] | None = None,
        record: TrainingRecord | None = None,
    ) -> Registered:
        """Log a trained model to the run that is open and register it as a new version.

        Args:
            directory: written by `save_model`.
            example: a few rows of features, for the signature and as an example.
            figures: plots to keep with the run, by file name.
            parameters: of the training, beside those of the run.
            metrics: beside those of the manifest.
            record: what the training measured; it is kept with the version.

        Raises:
            ModelError: if the models directory holds versions of another name.
        """
        import mlflow

        self._check_directory()
        manifest = read_manifest(directory)
        with ExitStack() as stack:
            if mlflow.active_run() is None:
                stack.enter_context(self.run(parameters={}))
            run = mlflow.active_run()
            assert run is not None
            log_figures(manifest, parameters, metrics or {}, figures)
            if record is not None:
                log_curve(run.info.run_id, "ndcg20_by_tree", record.curve, at=record.trained_at)
                page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
                write_record(directory, msgspec.structs.replace(record, run_path=page))
            if self._key is not None:
                sign_directory(directory, self._key)
            logged = log_ranker(directory, manifest, example)
            mlflow.log_artifacts(str(directory), "model")
            version = register_version(
                self._client(), logged.model_uri, self._name, manifest, record
            )
        # The newest version that has not served is the candidate of a canary.
        self._client().set_registered_model_alias(self._name, CHALLENGER, version)
        registered = Registered(self._name, version, run.info.run_id)
        self._keep(directory, manifest, version, registered.run_id)
        return registered

    def promote(self, version: str, *, reason: str = "") -> None:
        """Make a version the champion; the serving version becomes the previous one.

        Raises:
            ModelError: if the registry lacks the version, or the models directory its files.
            StorageError: if the audit log cannot be written; nothing was changed then.
        """
        self._make_champion(version, "promote", reason)

    def rollback(self, *, reason: str) -> str:
        """Make the previous champion the champion again, and return its version.

        Raises:
            ModelError: if there is no previous champion, or it cannot serve.
            StorageError: if the audit log cannot be written; nothing was changed then.
        """
        pointer = read_pointer(self._models)
        if pointer is None or not pointer.previous:
            raise ModelError(f"{self._models}: there is no previous champion to go back to")
        self._make_champion(pointer.previous, "rollback", reason)
        return pointer.previous

    def _make_champion(self, version: str, action: Action, reason: str) -> None:
        self._check_directory()
        client = self._client()
        pointer = read_pointer(self._models) or Pointer(version="")
        previous = pointer.version if pointer.version != version else pointer.previous
        self._find(client, version)
        directory = self._directory(version)
        if self._key is not None:
            check_directory(directory, {self._key.public})
        read_manifest(directory)
        with ExitStack() as stack:
            if self._audit is not None:
                versions = {"version": version, "previous": pointer.version}
                stack.enter_context(
                    self._audit.entry(action, self._name, by=self._by, reason=reason, **versions)
                )
            aliases = client.get_registered_model(self._name).aliases
            if str(aliases.get(CHALLENGER)) == version:
                client.delete_registered_model_alias(self._name, CHALLENGER)
            client.set_registered_model_alias(self._name, CHAMPION, version)
            if previous:
                client.set_registered_model_alias(self._name, PREVIOUS, previous)
            write_pointer(self._models, Pointer(version=version, previous=previous))

    def pull(
        self,
        version: str,
        *,
        trusted: Collection[str] = (),  # public keys of other installations
        accept_unsigned: bool = False,  # do not check the signature
    ) -> Path:
        """Copy a version's files from MLflow into the models directory.

        Raises:
            ModelError: if the registry lacks the version, or the models directory holds versions
                of another name.
            SignatureError: if neither this installation nor a trusted one has signed the files.
        """
        import mlflow

        self._check_directory()
        run_id = self._find(self._client(), version).run_id or ""
        with tempfile.TemporaryDirectory(prefix="tactful-pull-") as scratch:
            fetched = Path(
                mlflow.artifacts.download_artifacts(
                    run_id=run_id, artifact_path="model", tracking_uri=self._uri, dst_path=scratch
                )
            )
            if self._key is not None and not accept_unsigned:
                check_directory(fetched, {self._key.public, *trusted})
            return self._keep(fetched, read_manifest(fetched), version, run_id)

    def sign(self, version: str) -> None:
        """Sign the files of a version in the models directory, whatever their signature is."""
        if self._key is not None:
            sign_directory(self._directory(version), self._key)

    def _directory(self, version: str) -> Path:
        directory = version_directory(self._models, version)
        if not directory.exists():
            raise ModelError(
                f"{directory}: the files of version {version} are not here; "
                f"fetch them with `tactful models pull {version}`"
            )
        return directory

    def versions(self) -> list[dict[str, str]]:
        """Return every version, newest first, with its aliases and run."""
        return [
            {"version": str(stored.version), "run_id": stored.run_id or "", "aliases": aliases}
            for stored, aliases in self._versions()
        ]

    def ages(self) -> list[tuple[str, int, str]]:
        """Return number, registration time (epoch milliseconds) and aliases of every version."""
        return [
            (str(stored.version), int(stored.creation_timestamp), aliases)
            for stored, aliases in self._versions()
        ]

    def _versions(self) -> list[tuple[ModelVersion, str]]:
        client, query = self._client(), f"name='{self._name}'"
        if not client.search_registered_models(query):
            return []
        aliases: dict[str, list[str]] = {}
        for alias, version in client.get_registered_model(self._name).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        newest = sorted(client.search_model_versions(query), key=lambda it: -int(it.version))
        return [(it, ", ".join(sorted(aliases.get(str(it.version), [])))) for it in newest]

    def forget(self, version: str) -> None:
        """Delete a version with its run, its files in MLflow and its copy in the models directory.

        The caller has checked that it has no alias. Files are deleted first: the rest of a deletion
        that was killed is still found by its number.

        Raises:
            ModelError: if the registry lacks the version.
        """
        client = self._client()
        stored = self._find(client, version)
        if (model := stored.source or "").startswith("models:/"):
            logged = client.get_logged_model(model.removeprefix("models:/"))
            _delete(logged.artifact_location)
        if stored.run_id:
            run = client.get_run(stored.run_id)
            _delete(run.info.artifact_uri or "")
            client.delete_run(stored.run_id)
        shutil.rmtree(version_directory(self._models, version), ignore_errors=True)
        client.delete_model_version(self._name, version)

    def _client(self) -> MlflowClient:
        import mlflow

        file = self._file()
        if file is not None and not file.exists():
            self.check_store()
        return mlflow.MlflowClient(tracking_uri=self._uri)

    def _find(self, client: MlflowClient, version: str) -> ModelVersion:
        try:
            return client.get_model_version(self._name, version)
        except Exception as error:  # each of MLflow's stores raises errors of its own
            if getattr(error, "error_code", "") not in _UNKNOWN:
                raise ModelError(f"{self._uri}: {self._name} cannot be read: {error}") from error
            raise UnknownVersion(
                f"{self._name} has no version {version!r} in {self._uri}; see `tactful models list`"
            ) from error

    def _keep(self, source: Path, manifest: Manifest, version: str, run_id: str) -> Path:
        """Copy a model directory to its place, atomically for readers."""
        target = version_directory(self._models, version)
        scratch = target.with_name(f".{version}.{os.getpid()}")
        shutil.copytree(source, scratch)
        manifest = msgspec.structs.replace(manifest, version=version, run_id=run_id)
        (scratch / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        if self._key is not None:
            sign_directory(scratch, self._key)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        return target

    def _check_directory(self) -> None:
        """Refuse a directory with versions of another name: their numbers would collide."""
        names = set()
        for path in self._models.glob("versions/*/manifest.json"):
            with suppress(ModelError):  # a damaged one may be pulled again
                names.add(read_manifest(path.parent).name)
        if others := names - {self._name}:
            raise ModelError(
                f"{self._models} holds versions of {', '.join(sorted(others))}: give {self._name} "
                "a directory of its own with storage.models"
            )


@contextmanager
def audited_registry(settings: Settings, name: str, *, by: str | None = None) -> Iterator[Registry]:
    """Open the model registry, whose changes are recorded, while the context lasts."""
    with open_model_log(settings) as audit:
        key = open_signing_key(settings.storage.data)
        trusted_keys(settings.storage.data, settings.models)  # signs models of earlier versions
        yield Registry(name, settings.models, audit=audit, by=by, key=key)


def _delete(uri: str) -> None:
    """Delete files that MLflow keeps."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository: Any = get_artifact_repository(uri)
    repository.delete_artifacts()
