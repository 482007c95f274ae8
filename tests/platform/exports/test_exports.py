"""Exports against a running server: to a webhook and to Redis, interrupted and resumed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live, build, now_ms, small_settings, view
from tests.platform.webhook_receiver import receiving

from tactful.cli.main import main
from tactful.errors import ConfigError, DatasetError
from tactful.exports.run import BATCH, Export, Row, export, state_directory
from tactful.exports.targets import Batch, Webhook, open_target, without_password
from tactful.server.platform import Platform
from tactful_streaming.sinks.webhook import Answer, RetryPolicy, verify_signature

USERS = [f"u-{number}" for number in range(250)]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(Platform.open(small_settings(tmp_path_factory.mktemp("server")), build)) as server:
        server.http.put("/v1/items", json=[{"item_id": f"i-{n}"} for n in range(5)])
        views = [view(n, user) for user in USERS[:3] for n in range(4)]
        sent = server.http.post("/v1/events", json=[*views, view(9, USERS[3])]).json()
        server.views(USERS[3], sent["position"])
        yield server


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users.csv"
    file.write_text("user_id\n" + "\n".join(USERS) + "\n")
    return file


class Kept:
    """A target that keeps batches, and breaks at one of them."""

    def __init__(self, breaks_at: int = -1) -> None:
        self.batches: list[Batch] = []
        self._breaks_at = breaks_at

    def deliver(self, batch: Batch) -> None:
        if len(self.batches) == self._breaks_at:
            raise DatasetError("broken")
        self.batches.append(batch)


def even(users: Sequence[str]) -> Mapping[str, Row]:
    return {user: {"n": int(user[2:])} for user in users if int(user[2:]) % 2 == 0}


def run_job(target: Kept, state: Path, request: Mapping[str, Any] | None = None) -> Any:
    job = Export("recommendations", USERS, "https://shop.example", request or {})
    return export(job, even, target, state=state, rate=1e9)


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    whole = Kept()
    done = run_job(whole, tmp_path)
    assert (done.done, done.rows) == (250, 125)
    assert [len(it.rows) for it in whole.batches] == [50, 50, 25]
    assert whole.batches[0].absent == USERS[1:BATCH:2]
    assert [*tmp_path.iterdir()] == [], "the next run begins anew"
    first, second = Kept(breaks_at=1), Kept()
    with pytest.raises(DatasetError, match="broken"):
        run_job(first, tmp_path)
    other = Kept()
    run_job(other, tmp_path, {"count": 3})
    assert len(other.batches) == 3, "another request is another export"
    done = run_job(second, tmp_path)
    assert (done.done, done.rows) == (250, 125)
    both = [*first.batches, *second.batches]
    assert [it.rows for it in both] == [it.rows for it in whole.batches]
    assert len({it.key.partition("-")[0] for it in both}) == 1
    assert len({it.key for it in both}) == 3


def test_a_damaged_progress_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        run_job(Kept(breaks_at=1), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text("{")
    with pytest.raises(DatasetError, match="remove it to begin anew"):
        run_job(Kept(), tmp_path)


def test_the_rate_holds_on_average(tmp_path: Path) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    job = Export("recommendations", USERS, "x")
    export(job, even, Kept(), state=tmp_path, rate=50, monotonic=lambda: now[0], sleep=sleep)
    assert waits == [2.0, 2.0], "no pause after the last batch"


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        ([Answer(200)], []),
        ([Answer(500), Answer(204)], [1.0]),
        ([Answer(429, 7), Answer(302), Answer(200)], [7.0, 2.0]),
    ],
)
def test_a_webhook_is_tried_again(answers: list[Answer], pauses: list[float]) -> None:
    waits: list[float] = []
    sent: list[tuple[bytes, Mapping[str, str]]] = []

    def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        sent.append((body, headers))
        return answers[len(sent) - 1]

    target = Webhook(
        "https://shop.example", secret=None, policy=RetryPolicy(3), post=post, sleep=waits.append
    )
    target.deliver(Batch("k-0", "recommendations", {"ada": {"items": []}}, ["bob"]))
    assert waits == pauses
    assert {headers["Idempotency-Key"] for _, headers in sent} == {"k-0"}
    assert len({body for body, _ in sent}) == 1


def test_a_webhook_that_fails_for_good(tmp_path: Path) -> None:
    with receiving() as shop:
        shop.status = 500
        url = f"http://127.0.0.1:{shop.server_address[1]}"
        target = Webhook(url, secret=None, policy=RetryPolicy(2), sleep=lambda seconds: None)
        with pytest.raises(DatasetError, match=r"in 2 attempts \(answered with status 500\)"):
            target.deliver(Batch("k", "recommendations", {}, []))


@pytest.mark.parametrize(
    "address", ["", "shop.example", "ftp://shop.example", "http://", "http://[", "file:///etc"]
)
def test_what_is_no_target(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="give an https://, redis:// or valkey:// address"),
        open_target(address, "recommendations", secret=None, ttl_s=1, attempts=1),
    ):
        pass


def test_progress_holds_no_password() -> None:
    assert without_password("redis://ada:secret@host:1/0#p") == "redis://host:1/0#p"
    assert state_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/tactful/exports")
    assert state_directory({"XDG_STATE_HOME": "s"}).parts[-3:] == ("state", "tactful", "exports")


def run(*words: object, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(main, ["export", *map(str, words)])


def test_recommendations_reach_a_webhook(live: Live, users: Path, tmp_path: Path) -> None:
    with receiving(500) as shop:
        address = f"http://127.0.0.1:{shop.server_address[1]}/hook"
        done = run(
            *("recommendations", "--users", users, "--to", address, "--count", 3, "--json"),
            *("--url", live.url, "--secret-env", "SIGNING", "--rate", 100_000),
            SIGNING="secret",
            XDG_STATE_HOME=str(tmp_path / "state"),
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.output) == {"users": 250, "rows": 250, "problems": 0}
        headers, body = shop.attempts[-1]
        assert len(shop.attempts) == 4, "three batches, the first twice"
    now = int(time.time())
    assert verify_signature(b"secret", body, headers["Tactful-Signature"], now=now)
    rows = [row for _, sent in shop.attempts[1:] for row in json.loads(sent)["rows"]]
    assert [row["user_id"] for row in rows] == USERS
    assert [it["item_id"] for it in rows[0]["items"]] == ["i-0", "i-1", "i-2"]
    assert all(row["recommendation_id"] for row in rows)


def segment(live: Live, users: Path, address: str, tmp_path: Path, *words: object) -> Result:
    return run(
        *("segment", "fans", "--users", users, "--to", address, "--url", live.url),
        *("--where", '{"views": {"$gte": 4}}', "--rate", 100_000, *words),
        XDG_STATE_HOME=str(tmp_path / "state"),
    )


def test_a_segment_has_users_who_agreed(live: Live, users: Path, tmp_path: Path) -> None:
    refused = {"purposes": {"marketing": False}}
    assert live.http.put(f"/v1/users/{USERS[1]}/consent", json=refused).status_code == 200
    with receiving() as shop:
        address = f"http://127.0.0.1:{shop.server_address[1]}"
        done = segment(live, users, address, tmp_path)
        assert (done.exit_code, done.output) == (0, "2 of 250 users delivered\n")
        sent = [json.loads(body) for _, body in shop.attempts]
    assert {it["export"] for it in sent} == {"segment fans"}
    assert [row["user_id"] for it in sent for row in it["rows"]] == [USERS[0], USERS[2]]
    assert [user for it in sent for user in it["absent"]] == [USERS[1], *USERS[3:]]


def test_a_feature_that_does_not_exist_is_named(live: Live, users: Path, tmp_path: Path) -> None:
    for where in ('{"veiws": {"$gt": 1}}', '{"$or": [{"views": 1}, {"$not": {"veiws": 1}}]}'):
        done = segment(live, users, "http://127.0.0.1:9", tmp_path, "--where", where)
        assert done.exit_code == 2
        assert "the server has no feature 'veiws'; it has by_category, lifecycle" in done.output


@pytest.mark.service("redis")
def test_exports_reach_redis(live: Live, users: Path, tmp_path: Path, redis_url: str) -> None:
    import redis

    prefix = f"test-{uuid.uuid4().hex}"
    store = redis.Redis.from_url(redis_url)
    store.set(f"{prefix}:{USERS[9]}", "of an earlier run")
    done = segment(
        live, users, f"{redis_url}#{prefix}", tmp_path, "--purpose", "service", "--ttl-days", 1
    )
    assert done.exit_code == 0, done.output
    held = {
        key.decode().partition(":")[2]: store.get(key) for key in store.scan_iter(f"{prefix}:*")
    }
    assert {*held} == {*USERS[:3]}
    assert abs(json.loads(held[USERS[0]] or b"")["at"] - now_ms()) < 60_000
    assert 86_000 < store.ttl(f"{prefix}:{USERS[0]}") <= 86_400
    store.delete(*store.scan_iter(f"{prefix}:*"))


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (("segment", "a b", "--where", "{}"), "without blanks", 2),
        (("segment", "a", "--where", "{"), "--where is no condition", 2),
        (("segment", "a", "--where", '{"a": {"$gtt": 1}}'), "--where is no condition", 2),
        (("recommendations", "--secret-env", "MISSING_SECRET"), "MISSING_SECRET: it is not set", 2),
        (("recommendations", "--url", "http://127.0.0.1:9"), "", 3),
    ],
)
def test_what_cannot_be_exported(
    users: Path, tmp_path: Path, words: tuple[str, ...], message: str, code: int
) -> None:
    done = run(*words, "--users", users, "--to", "http://127.0.0.1:9", XDG_STATE_HOME=str(tmp_path))
    assert (done.exit_code, message in done.output) == (code, True), done.output
