"""Print the images of deploy/.env with the digests that their registries name."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

FILE = Path(__file__).resolve().parent / "helm" / "tactful" / "images.env"
_DOCKER_HUB = "registry-1.docker.io"
_LINE = re.compile(r"^(?P<name>\w+_IMAGE)=(?P<image>[^@\s]+)(?:@sha256:[0-9a-f]{64})?$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BUILT_HERE = "TACTFUL_"
# An index names the images of all platforms; some images have one platform only.
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class RegistryError(Exception):
    """A registry does not answer, or names no digest."""


@dataclass(frozen=True)
class Image:
    """Place of an image: host of its registry, repository, tag."""

    host: str
    repository: str
    tag: str

    @property
    def url(self) -> str:
        """Address of the manifest. As in Docker, a registry on this machine needs no TLS."""
        local = self.host.partition(":")[0] in ("localhost", "127.0.0.1")
        scheme = "http" if local else "https"
        return f"{scheme}://{self.host}/v2/{self.repository}/manifests/{self.tag}"


def parse_image(text: str) -> Image:
    """Read a reference such as ``redis:8.2``, as Docker completes it.

    Raises:
        RegistryError: if it has no tag.
    """
    place, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        raise RegistryError(f"{text} has no tag: write one, such as {text}:1.0")
    host, slash, repository = place.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, repository = _DOCKER_HUB, place if "/" in place else f"library/{place}"
    return Image(host, repository, tag)


def fetch_digest(client: httpx.Client, image: Image) -> str:
    """Ask the registry for the digest of an image, anonymously.

    Raises:
        RegistryError: naming the image and the reason.
    """
    headers = {"Accept": _ACCEPT}
    try:
        answer = client.head(image.url, headers=headers)
        if answer.status_code == 401:
            headers["Authorization"] = f"Bearer {_token(client, answer, image)}"
            answer = client.head(image.url, headers=headers)
        answer.raise_for_status()
        named = answer.headers.get("Docker-Content-Digest", "")
        if not named:  # an optional header: the digest is that of the manifest
            manifest = client.get(image.url, headers=headers).raise_for_status().content
            named = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    except httpx.HTTPError as error:
        raise RegistryError(f"{image.url}: {error}") from error
    if not _DIGEST.fullmatch(named):
        raise RegistryError(f"{image.url}: {named!r} is no SHA-256 digest")
    return str(named)


def _token(client: httpx.Client, refusal: httpx.Response, image: Image) -> str:
    challenge = refusal.headers.get("WWW-Authenticate", "")
    given: Mapping[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = given.get("realm", "")
    if not challenge.startswith("Bearer ") or not realm:
        raise RegistryError(f"{image.url}: the registry gives no tokens to everybody")
    if image.url.startswith("https:") and not realm.startswith("https:"):
        raise RegistryError(f"{image.url}: its tokens come without TLS, from {realm}")
    wanted = {"service": given.get("service", ""), "scope": f"repository:{image.repository}:pull"}
    answer = client.get(realm, params=wanted).raise_for_status()
    try:
        body = answer.json()
        return str(body.get("token") or body["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise RegistryError(f"{realm}: the answer has no token") from error


def pin(text: str, client: httpx.Client) -> tuple[str, list[str]]:
    """Add digests to the lines of a file of images, or replace them.

    Returns:
        The new text, in which lines without an answer are as before; and what went wrong.
    """
    lines, problems = [], []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and not match["name"].startswith(_BUILT_HERE):
            try:
                digest = fetch_digest(client, parse_image(match["image"]))
                line = f"{match['name']}={match['image']}@{digest}"
            except RegistryError as error:
                problems.append(str(error))
        lines.append(line)
    return "\n".join([*lines, ""]), problems


def main(words: list[str]) -> int:
    """Print or write the file; 1 if a registry did not answer."""
    parser = argparse.ArgumentParser(prog="scripts/image-digests", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--write", action="store_true", help="change the file; else print it")
    options = parser.parse_args(words)
    with httpx.Client(timeout=20, follow_redirects=True) as client:
        text, problems = pin(options.file.read_text("utf-8"), client)
    if options.write:
        options.file.write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    for problem in problems:
        sys.stderr.write(f"image-digests: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
