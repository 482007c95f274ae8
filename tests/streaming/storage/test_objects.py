"""One contract for places of objects: a folder, and a bucket of S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.streaming.s3_server import BUCKET, S3Server

from benchmarks.ports import free_port
from tactful_streaming.errors import ObjectExistsError, ObjectMissingError, ObjectStoreError
from tactful_streaming.storage.objects import ObjectStore, open_objects

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_objects((tmp_path / "place of objects").as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    return open_objects(server.url(), environ=server.environ())


def names(store: ObjectStore, prefix: str = "") -> list[tuple[str, int]]:
    return sorted((found.name, found.size) for found in store.list(prefix))


def test_an_object_is_what_was_written_last(store: ObjectStore) -> None:
    assert names(store) == []
    store.put("a/b/größe +1%.json", b"first")
    store.put("a/b/größe +1%.json", b"second")
    store.put("a/c", b"")
    store.put("ab", bytes(range(256)) * 5000)
    assert store.get("a/b/größe +1%.json") == b"second"
    assert store.get("a/c") == b""
    assert store.get("ab") == bytes(range(256)) * 5000
    assert names(store) == [("a/b/größe +1%.json", 6), ("a/c", 0), ("ab", 1_280_000)]
    assert [name for name, _ in names(store, "a")] == ["a/b/größe +1%.json", "a/c"]
    store.delete(["a/c", "a/c", "nothing/here"])
    with pytest.raises(ObjectMissingError, match=r"a/c does not exist"):
        store.get("a/c")
    store.delete(name for name, _ in names(store))
    assert names(store) == []


def test_one_of_many_writers_makes_a_new_object(store: ObjectStore) -> None:
    made: list[int] = []
    start = threading.Barrier(6)

    def write(number: int) -> None:
        start.wait(30)
        try:
            store.put("index", b"%d" % number, new=True)
        except ObjectExistsError:
            return
        made.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = made
    assert store.get("index") == b"%d" % winner
    assert names(store) == [("index", 1)]


@pytest.mark.parametrize(
    "url",
    [
        "gs://bucket/p",
        "s3://",
        "/plain/path",
        "file://host/x",
        "s3://key:hunter2@bucket",
        "s3://b?hunter2",
    ],
)
def test_other_urls_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(ObjectStoreError, match="must be s3://BUCKET/PREFIX") as refused:
        open_objects(url, environ={})
    assert "hunter2" not in str(refused.value)


def test_a_wrong_bucket_and_an_endpoint_that_is_not_there(s3_server: S3Server) -> None:
    environ = s3_server.environ()
    missing = open_objects("s3://no-such-bucket/x", environ=environ)
    for use in (lambda: names(missing), lambda: missing.put("a", b"")):
        with pytest.raises(ObjectStoreError, match="no bucket 'no-such-bucket' at http") as error:
            use()
        assert not isinstance(error.value, ObjectMissingError)
    nowhere = open_objects("s3://tests/x", environ=s3_server.environ(free_port()))
    with pytest.raises(ObjectStoreError, match=r"cannot be reached.*AWS_ENDPOINT_URL"):
        nowhere.get("a")


@pytest.fixture
def guarded(s3_server: S3Server) -> Iterator[tuple[S3Server, dict[str, str]]]:
    """The server with a user who may use the bucket; every other key is refused."""
    import boto3

    environ = s3_server.environ()
    iam = boto3.client(
        "iam",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )
    iam.create_user(UserName="tactful")
    policy = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", '
        f'"Resource": ["arn:aws:s3:::{BUCKET}", "arn:aws:s3:::{BUCKET}/*"]}}]}}'
    )
    iam.put_user_policy(UserName="tactful", PolicyName="bucket", PolicyDocument=policy)
    made = iam.create_access_key(UserName="tactful")["AccessKey"]
    s3_server.request("POST", "moto-api/reset-auth", b"0")
    keys = dict(zip(KEYS, (made["AccessKeyId"], made["SecretAccessKey"]), strict=True))
    yield s3_server, {**environ, **keys}
    s3_server.request("POST", "moto-api/reset-auth", b"inf")


def test_wrong_credentials(guarded: tuple[S3Server, dict[str, str]]) -> None:
    server, environ = guarded
    url = server.url()
    right = open_objects(url, environ=environ)
    right.put("a", b"content")
    assert right.get("a") == b"content"
    for name in KEYS:
        wrong = open_objects(url, environ={**environ, name: environ[name][::-1]})
        for use in (lambda wrong=wrong: wrong.get("a"), lambda wrong=wrong: names(wrong)):
            with pytest.raises(ObjectStoreError, match=r"refused the credentials: \w+.*KEY") as bad:
                use()
            assert environ[KEYS[1]] not in str(bad.value)
            assert "Debug source" not in str(bad.value)
