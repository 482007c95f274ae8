"""A trained model on its way to devices: signed, tried before it is used, and taken back if bad."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful_federated.checkpoint import write_whole
from tactful_federated.errors import FederatedError, PackageError
from tactful_federated.inference import IntentPredictor
from tactful_federated.tokens import Vocabulary
from tactful_federated.vectors import Vector

_LABEL = b"tactful intent model 1\0"


class ModelPackage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An intent model.

    Attributes:
        version: Rises with every package.
        vocabulary: Fingerprint of the public vocabulary.
        embedding: Of the model.
        hidden: Of the model.
        temperature: Of its probabilities.
        weights: Flat float32, little-endian.
    """

    version: int
    vocabulary: str
    embedding: int
    hidden: int
    temperature: float
    weights: bytes

    def predictor(self, vocabulary: Vocabulary) -> IntentPredictor:
        """The model, ready to predict.

        Raises:
            PackageError: It is for another vocabulary, or its weights do not fit.
        """
        if self.vocabulary != vocabulary.fingerprint:
            raise PackageError("the model is for another vocabulary; update the device")
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
            raise PackageError(f"the model cannot be used: {error}") from error


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
    """Sign a model: a signature of 64 bytes, then the package."""
    package = ModelPackage(
        version,
        vocabulary.fingerprint,
        embedding,
        hidden,
        temperature,
        weights.astype("<f4").tobytes(),
    )
    body = msgspec.msgpack.encode(package)
    return key.sign(_digest(body)) + body


def open_package(data: bytes, key: Ed25519PublicKey) -> ModelPackage:
    """Check the signature, then read.

    Raises:
        PackageError: It was not signed by that key, or is no package.
    """
    signature, body = data[:64], data[64:]
    try:
        key.verify(signature, _digest(body))
        return msgspec.msgpack.decode(body, type=ModelPackage)
    except InvalidSignature as error:
        raise PackageError("the package is not signed by the key this device trusts") from error
    except msgspec.MsgspecError as error:
        raise PackageError(f"the package is no intent model: {error}") from error


class ModelSlot:
    """The model that a device uses, and the one before, in a directory of its own.

    Args:
        directory: Where they are kept.
        key: Whose signature is trusted.
        vocabulary: Of this device.
        widths: Embedding and hidden of the run that the device was invited to; None takes any.
    """

    def __init__(
        self,
        directory: Path,
        key: Ed25519PublicKey,
        vocabulary: Vocabulary,
        *,
        widths: tuple[int, int] | None = None,
    ) -> None:
        """Look at what is kept."""
        directory.mkdir(parents=True, exist_ok=True)
        self._current, self._previous = directory / "current", directory / "previous"
        # By signer: numbers of one say nothing of another's, whom a device may come to trust later.
        signer = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
        self._withdrawn = directory / f"withdrawn-{signer}"
        self._reached = directory / f"reached-{signer}"
        self._key, self._vocabulary, self._widths = key, vocabulary, widths

    @property
    def version(self) -> int:
        """Of the model in use; 0 if there is none."""
        kept = self._kept(self._current)
        return kept.version if kept else 0

    @property
    def withdrawn(self) -> int:
        """The latest version that was taken back; 0 if none was."""
        return _number(self._withdrawn)

    @property
    def reached(self) -> int:
        """The latest version that was ever in use, also if its file is damaged by now."""
        kept = (self._kept(path) for path in (self._current, self._previous))
        return max(_number(self._reached), *(each.version for each in kept if each), 0, 0)

    def predictor(self) -> IntentPredictor | None:
        """The model in use; a damaged one gives way to the one before. None if there is none."""
        for path in (self._current, self._previous):
            kept = self._kept(path)
            if kept:
                return self._predictor(kept)
        return None

    def install(
        self, data: bytes, accept: Callable[[IntentPredictor], bool] = lambda predictor: True
    ) -> None:
        """Use a new model, if it is signed, newer, fits, and passes the device's own check.

        Newer is what is newer than all that was in use, also than what was taken back: what did
        harm once is not installed again because its server still offers it.

        Args:
            data: As `pack_model` made it.
            accept: Tries the model on this device; if it says no or fails, the old one stays.

        Raises:
            PackageError: It is refused; the old model stays in use.
        """
        package = open_package(data, self._key)
        if package.version <= self.withdrawn:
            raise PackageError(
                f"version {package.version} is not newer than {self.withdrawn}, which was taken"
                " back on this device: give the next model a higher version"
            )
        reached = self.reached
        # What is in use again after its file was damaged is no older model: it is the same.
        if package.version < reached or package.version == self.version:
            raise PackageError(
                f"version {package.version} is not newer than {reached}, which was in use: give the"
                " next model a higher version"
            )
        predictor = self._predictor(package)
        try:
            works = bool(np.isfinite(predictor.predict([])).all()) and accept(predictor)
        except Exception as error:
            raise PackageError(f"the model failed on this device: {error}") from error
        if not works:
            raise PackageError("the model did worse on this device than it accepts")
        if self._kept(self._current):
            write_whole(self._previous, self._current.read_bytes())
        # First: a process that dies in between may install this very version, and no older one.
        write_whole(self._reached, str(package.version).encode("ascii"))
        write_whole(self._current, data)

    def roll_back(self) -> None:
        """Use the model before again, and never again the one that is in use.

        Raises:
            PackageError: There is none, or it is in use already.
        """
        previous = self._kept(self._previous)
        if previous is None or previous.version >= self.version > 0:
            raise PackageError("there is no earlier model to go back to")
        # First, so that a process that dies in between has lost nothing but a way back to harm.
        latest = max(self.reached, self.withdrawn)
        write_whole(self._withdrawn, str(latest).encode("ascii"))
        write_whole(self._current, self._previous.read_bytes())

    def _predictor(self, package: ModelPackage) -> IntentPredictor:
        widths = package.embedding, package.hidden
        if self._widths not in (None, widths):
            raise PackageError(
                f"the model's widths are {widths}, not {self._widths} as the device was invited to:"
                " take the model and the invitation of one run"
            )
        return package.predictor(self._vocabulary)

    def _kept(self, path: Path) -> ModelPackage | None:
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
