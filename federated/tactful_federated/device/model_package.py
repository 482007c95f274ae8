"""Signed model packages and their installation on devices, with rollback."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.errors import FederatedError, PackageError
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import exclusive

_LABEL = b"tactful intent model 1\0"


class ModelPackage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Content of a model package."""

    version: int  # increasing with each package
    vocabulary: str  # fingerprint of the public vocabulary
    embedding: int
    hidden: int
    temperature: float
    weights: bytes  # flat float32, little-endian

    def predictor(self, vocabulary: Vocabulary) -> IntentPredictor:
        """Return the predictor of the model.

        Raises:
            PackageError: The model has another vocabulary, or its weights do not fit.
        """
        if self.vocabulary != vocabulary.fingerprint:
            raise PackageError("the model is for another vocabulary: update the device")
        try:
            weights = np.frombuffer(self.weights, dtype="<f4").astype(np.float32)
            return IntentPredictor(
                weights,
                vocabulary.size,
                embedding=self.embedding,
                hidden=self.hidden,
                temperature=self.temperature,
            )
        except (FederatedError, ValueError) as error:
            raise PackageError(f"the model is not valid: {error}") from error


def pack_model(
    weights: Vector,
    vocabulary: Vocabulary,
    version: int,
    key: Ed25519PrivateKey,
    *,
    embedding: int = 32,
    hidden: int = 32,
    temperature: float = 1.0,
) -> bytes:
    """Return a signed package: 64 bytes of signature, then the encoded `ModelPackage`."""
    flat, fingerprint = weights.astype("<f4").tobytes(), vocabulary.fingerprint
    package = ModelPackage(version, fingerprint, embedding, hidden, temperature, flat)
    body = msgspec.msgpack.encode(package)
    return key.sign(_digest(body)) + body


def open_package(data: bytes, key: Ed25519PublicKey) -> ModelPackage:
    """Check the signature of a package, then decode it.

    Raises:
        PackageError: The signature is wrong, or the content is not a package.
    """
    signature, body = data[:64], data[64:]
    try:
        key.verify(signature, _digest(body))
        return msgspec.msgpack.decode(body, type=ModelPackage)
    except InvalidSignature as error:
        raise PackageError("the package is not signed by the key this device trusts") from error
    except DECODE_ERRORS as error:
        raise PackageError(f"the package is not an intent model: {error}") from error


class ModelSlot:
    """Installed model of a device and the previous one, in a directory.

        current, previous   signed packages
        reached-SIGNER      highest version ever installed, by signer
        withdrawn-SIGNER    highest version that was rolled back, by signer

    Args:
        directory: Directory of the files.
        key: Trusted key of the signer.
        vocabulary: Vocabulary of this device.
        widths: Embedding and hidden of the run of the invitation; None accepts any.
    """

    def __init__(
        self,
        directory: Path,
        key: Ed25519PublicKey,
        vocabulary: Vocabulary,
        *,
        widths: tuple[int, int] | None = None,
    ) -> None:
        """Create the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self._current, self._previous = directory / "current", directory / "previous"
        # By signer: the versions of one signer do not count for another one.
        signer = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
        self._withdrawn = directory / f"withdrawn-{signer}"
        self._reached = directory / f"reached-{signer}"
        self._key, self._vocabulary, self._widths = key, vocabulary, widths

    @property
    def version(self) -> int:
        """Version of the installed model; 0 if there is none."""
        installed = self._load(self._current)
        return installed.version if installed else 0

    @property
    def withdrawn(self) -> int:
        """Highest version that was rolled back; 0 if there is none."""
        return _number(self._withdrawn)

    @property
    def reached(self) -> int:
        """Highest version that was ever installed, even if its file is damaged."""
        installed = (self._load(path) for path in (self._current, self._previous))
        return max(
            _number(self._reached), *(package.version for package in installed if package), 0
        )

    def predictor(self) -> IntentPredictor | None:
        """Return the installed model, the previous one if it is damaged, or None."""
        for path in (self._current, self._previous):
            installed = self._load(path)
            if installed:
                return self._predictor(installed)
        return None

    def install(
        self, data: bytes, accept: Callable[[IntentPredictor], bool] = lambda predictor: True
    ) -> None:
        """Install a new model if it is signed, newer, fits and passes a check.

        Newer means newer than all versions that were installed or rolled back, so a model that was
        rolled back is not installed again.

        Args:
            data: Package from `pack_model`.
            accept: Tests the model on this device; if it returns False or fails, the model is
                refused.

        Raises:
            PackageError: The model is refused; the installed one is unchanged.
        """
        with exclusive(self._current):
            self._install(data, accept)

    def _install(self, data: bytes, accept: Callable[[IntentPredictor], bool]) -> None:
        package = open_package(data, self._key)
        if package.version <= self.withdrawn:
            raise PackageError(
                f"version {package.version} is not newer than {self.withdrawn}, which was rolled"
                " back on this device: give the next model a higher version"
            )
        reached = self.reached
        # The version that was reached may be installed again if its file was damaged.
        if package.version < reached or package.version == self.version:
            raise PackageError(
                f"version {package.version} is not newer than {reached}, which was installed: give"
                " the next model a higher version"
            )
        predictor = self._predictor(package)
        try:
            works = bool(np.isfinite(predictor.predict([])).all()) and accept(predictor)
        except Exception as error:
            raise PackageError(f"the model failed on this device: {error}") from error
        if not works:
            raise PackageError("the model is worse on this device than allowed")
        if self._load(self._current):
            write_whole(self._previous, self._current.read_bytes())
        # First: after a kill in between, this version can be installed, but no older one.
        write_whole(self._reached, str(package.version).encode("ascii"))
        write_whole(self._current, data)

    def roll_back(self) -> None:
        """Install the previous model again; block the versions after it.

        Raises:
            PackageError: There is no previous model, or it is installed already.
        """
        with exclusive(self._current):
            self._roll_back()

    def _roll_back(self) -> None:
        previous = self._load(self._previous)
        if previous is None or previous.version >= self.version > 0:
            raise PackageError("there is no earlier model to roll back to")
        # First: after a kill in between, the bad version is still blocked.
        latest = max(self.reached, self.withdrawn)
        write_whole(self._withdrawn, str(latest).encode("ascii"))
        write_whole(self._current, self._previous.read_bytes())

    def _predictor(self, package: ModelPackage) -> IntentPredictor:
        widths = package.embedding, package.hidden
        if self._widths not in (None, widths):
            raise PackageError(
                f"the widths of the model are {widths}, not {self._widths} as in the invitation:"
                " use the model and the invitation of one run"
            )
        return package.predictor(self._vocabulary)

    def _load(self, path: Path) -> ModelPackage | None:
        try:
            package = open_package(path.read_bytes(), self._key)
            self._predictor(package)
        except (OSError, PackageError):
            return None
        return package


def _number(path: Path) -> int:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 0


def _digest(body: bytes) -> bytes:
    return _LABEL + hashlib.sha256(body).digest()
