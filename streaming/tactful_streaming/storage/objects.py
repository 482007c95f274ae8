"""Named objects in a place outside the machine: interface, and its choice by a URL.

An object is written as a whole or not at all, so a writer that is killed or cut off leaves the
former object or none. Larger data is divided into objects, see `snapshots`.

======================  =====================================================
``file:///PATH``        a folder, such as one that several machines mount
``s3://BUCKET/PREFIX``  a bucket of S3 or of a compatible server; extra ``s3``
======================  =====================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from tactful_streaming.errors import ObjectStoreError


@dataclass(frozen=True)
class StoredObject:
    """An object in a listing."""

    name: str
    size: int  # bytes
    written_at: float  # epoch seconds, by the clock of the place


class ObjectStore(Protocol):
    """A place of named objects, such as ``parts/1f3a``; any number of threads may use it.

    Every method raises ObjectStoreError if the place cannot be used.
    """

    @property
    def place(self) -> str:
        """URL of the place, for messages."""
        ...

    def put(self, name: str, content: bytes, *, new: bool = False) -> None:
        """Write an object as a whole.

        Raises:
            ObjectExistsError: if there is one of this name and it must be `new`.
        """
        ...

    def get(self, name: str) -> bytes:
        """Read an object; ObjectMissingError if there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects below a folder, and what killed writers left there."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; names of which there are none have no effect."""
        ...


def is_url(place: str) -> bool:
    """Whether a text names a place of objects rather than a path."""
    return "://" in place


def open_objects(url: str, *, environ: Mapping[str, str] | None = None) -> ObjectStore:
    """Return the place of a URL; nothing is read or written yet.

    Args:
        url: ``s3://BUCKET/PREFIX`` or ``file:///PATH``.
        environ: variables with the credentials and the endpoint, as other clients of S3 read them;
            None for those of the process.

    Raises:
        ObjectStoreError: if the URL is neither, or the extra ``s3`` is not installed.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username is not None:
        raise ObjectStoreError(
            f"{_shown(url)}: must be s3://BUCKET/PREFIX and nothing else: credentials and the "
            "endpoint are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        from tactful_streaming.storage.folder import FolderObjects

        return FolderObjects(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from tactful_streaming.storage.s3 import S3Objects

        variables = os.environ if environ is None else environ
        return S3Objects(parts.netloc, unquote(parts.path).strip("/"), variables)
    raise ObjectStoreError(f"{_shown(url)}: must be s3://BUCKET/PREFIX or file:///PATH")


def _shown(url: str) -> str:
    """Return the scheme and host of a URL: other parts may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}…"
