"""Objects in a bucket of S3, or of a server with the same protocol.

Credentials and the endpoint are read from the variables that other clients of S3 read, too:
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``, ``AWS_CA_BUNDLE``; without keys the role of the machine or container applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tactful_streaming.errors import ObjectExistsError, ObjectMissingError, ObjectStoreError
from tactful_streaming.storage.objects import StoredObject

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_CONNECT_S = 5
_REQUEST_S = 300  # a part of 16 MiB at half a megabit per second
_RETRIES = 4
_RETRY_S = 60
_DELETED_AT_ONCE = 1000
_METADATA_SERVICE = "169.254.169.254"  # where the role of a machine is read
_NO_BUCKET = "NoSuchBucket"
_REFUSED = re.compile(r"status code: 40[13]|<Code>(InvalidAccessKeyId|SignatureDoesNotMatch)")
_CODE = re.compile(r"<Code>(\w+)</Code>(?:<Message>([^<]*)</Message>)?")


class S3Objects:
    """An `ObjectStore` in a bucket."""

    def __init__(self, bucket: str, prefix: str, environ: Mapping[str, str]) -> None:
        """Use the objects of a bucket whose keys begin with `prefix` and a slash.

        Raises:
            ObjectStoreError: if the extra ``s3`` is not installed, or a variable is invalid.
        """
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise ObjectStoreError(
                "s3:// needs obstore, which is not installed: pip install 'tactful[s3]'"
            ) from error
        self._obstore = obstore
        self._bucket = bucket
        self._prefix = prefix
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        self._endpoint = endpoint or "AWS"
        client = _client(endpoint, environ)
        with self._explained(""):
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                config=_config(endpoint, environ),
                client_options=client,
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_S),
                },
            )

    @property
    def place(self) -> str:
        """URL of the bucket and prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Write an object in one request, whose checksum the server compares."""
        mode: Literal["create", "overwrite"] = "create" if new else "overwrite"
        with self._explained(name):
            self._obstore.put(self._store, name, content, use_multipart=False, mode=mode)

    def get(self, name: str) -> bytes:
        """Read an object."""
        with self._explained(name):
            return self._obstore.get(self._store, name).bytes().to_bytes()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects below a folder."""
        with self._explained(prefix):
            for page in self._obstore.list(self._store, prefix or None):
                for found in page:
                    written_at = found["last_modified"].timestamp()
                    yield StoredObject(found["path"], found["size"], written_at)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects."""
        remaining = list(names)
        with self._explained(""):
            while remaining:
                self._obstore.delete(self._store, remaining[:_DELETED_AT_ONCE])
                del remaining[:_DELETED_AT_ONCE]

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Convert the errors of the library, which quote whole answers."""
        from obstore import exceptions as raised

        where = f"{self.place}/{name}".rstrip("/")
        try:
            yield
        except (raised.AlreadyExistsError, raised.PreconditionError):
            raise ObjectExistsError(f"{where} exists already") from None
        except (raised.BaseError, ValueError, OSError) as error:
            text = str(error)
            if isinstance(error, FileNotFoundError) and _NO_BUCKET not in text:
                raise ObjectMissingError(f"{where} does not exist") from None
            raise ObjectStoreError(f"{where}: {self._cause(text)}") from None

    def _cause(self, text: str) -> str:
        """Say what an error means and what to do."""
        answer = _CODE.search(text)
        reason = (
            text.partition("\n")[0] if answer is None else ": ".join(filter(None, answer.groups()))
        )
        reason = reason.rstrip(".")
        if _METADATA_SERVICE in text:
            return (
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "give the machine a role"
            )
        if _NO_BUCKET in text:
            return (
                f"there is no bucket {self._bucket!r} at {self._endpoint}: make it, or correct the "
                "URL or AWS_ENDPOINT_URL"
            )
        if _REFUSED.search(text):
            return (
                f"{self._endpoint} refused the credentials: {reason}. Check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, and the permissions of the key: it lists, reads, writes "
                "and deletes objects of the bucket"
            )
        if answer is None and "HTTP error" in text:
            return (
                f"{self._endpoint} cannot be reached: {reason}. Check AWS_ENDPOINT_URL and the "
                "network"
            )
        return f"{self._endpoint} cannot be used: {reason}"


def _config(endpoint: str, environ: Mapping[str, str]) -> S3Config:
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config: S3Config = {"region": region, "checksum_algorithm": "sha256"}
    if endpoint:
        config["endpoint"] = endpoint
    if key := environ.get("AWS_ACCESS_KEY_ID"):
        config["access_key_id"] = key
    if secret := environ.get("AWS_SECRET_ACCESS_KEY"):
        config["secret_access_key"] = secret
    if token := environ.get("AWS_SESSION_TOKEN"):
        config["session_token"] = token
    return config


def _client(endpoint: str, environ: Mapping[str, str]) -> ClientConfig:
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "timeout": timedelta(seconds=_REQUEST_S),
        "allow_http": endpoint.startswith("http://"),
    }
    if bundle := environ.get("AWS_CA_BUNDLE"):
        try:
            client["root_certificate"] = Path(bundle).read_bytes()
        except OSError as error:
            raise ObjectStoreError(
                f"AWS_CA_BUNDLE names {bundle}: cannot be read: {error}"
            ) from error
    return client
