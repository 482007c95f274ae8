"""What deploy/ starts fits the settings and commands, and does what it says with real services."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.metadata import store as metadata
from tactful.metadata.tables import tables as metadata_tables
from tests.test_docs import unknown_words

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"

KNOWN = {"TACTFUL_REDIS_URL", "TACTFUL_SINK_TARGET"}  # variables of ours that are no settings
Environment = dict[str, str]


def compose() -> dict[str, Any]:
    """The services of the compose file, with its variables filled in."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{MARIADB_PASSWORD:\?[^}]*\}", "secret", text)
    assert "${" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def kubernetes() -> dict[str, Any]:
    """The manifests by kind and name."""
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    return {f"{it['kind']}/{it['metadata']['name']}": it for it in yaml.safe_load_all(text)}


def containers() -> Iterator[tuple[str, list[str], Environment]]:
    """Every container of ours: where it is defined, its command, its environment."""
    for name, service in compose()["services"].items():
        if service["image"] == "tactful":
            yield f"compose {name}", service["command"], service.get("environment", {})
    manifests = kubernetes()
    for key, manifest in manifests.items():
        if manifest["kind"] in ("StatefulSet", "Deployment"):
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            environment: Environment = {}
            for source in container.get("envFrom", []):
                environment |= manifests[f"ConfigMap/{source['configMapRef']['name']}"]["data"]
            for variable in container.get("env", []):
                environment[variable["name"]] = variable.get("value", "from-elsewhere")
            yield f"kubernetes {key}", container["args"], environment


CONTAINERS = {name: (command, environment) for name, command, environment in containers()}


def settings_of(name: str) -> Settings:
    environment = CONTAINERS[name][1]
    assert all(isinstance(value, str) for value in environment.values()), "quote numbers"
    return load_settings(environ=environment)


@pytest.mark.parametrize("name", CONTAINERS)
def test_commands_and_variables_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY)  # where there is no tactful.toml
    command, environment = CONTAINERS[name]
    assert command[0] == "tactful"
    assert unknown_words([word for word in command[1:] if ":" not in word or "=" in word]) == []
    ours = {variable for variable in environment if variable.startswith("TACTFUL_")}
    assert {variable for variable in ours if "__" not in variable} <= KNOWN
    settings = settings_of(name)
    if "sink" in name:
        assert "TACTFUL_SINK_TARGET" in environment
        return
    for variable in (settings.metadata.url_env, settings.online.url_env, settings.log.password_env):
        assert not variable or variable in environment
    assert settings.log.kind == "kafka"
    assert settings.online.url_env in environment


@pytest.mark.parametrize("where", ["compose {}", "kubernetes StatefulSet/tactful-{}"])
def test_servers_and_workers_compute_the_same(where: str) -> None:
    server, worker = (settings_of(where.format(what)) for what in ("server", "worker"))
    for section in ("engine", "identity", "online"):
        assert getattr(server, section) == getattr(worker, section)
    for name in ("brokers", "topic", "consumer_threads", "replication", "security", "username"):
        assert getattr(server.log, name) == getattr(worker.log, name)
    assert server.server.host == "0.0.0.0"
    sink, _ = CONTAINERS[where.format("sink").replace("StatefulSet", "Deployment")]
    assert worker.worker.fired_topic in " ".join(sink)


def test_ports_probes_and_volumes_fit() -> None:
    defaults = Settings().server
    services = compose()["services"]
    assert services["server"]["ports"] == [f"127.0.0.1:{defaults.port}:{defaults.port}"]
    assert f"{defaults.port}/readyz" in services["server"]["healthcheck"]["test"][-1]
    named = {volume.split(":")[0] for it in services.values() for volume in it.get("volumes", [])}
    assert named == set(compose()["volumes"])
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "VOLUME /data" in dockerfile
    assert "--mode 0700 /data /keys" in dockerfile
    volumes = [*services["server"]["volumes"], *services["worker"]["volumes"]]
    assert set(volumes) == {"server:/data", "workers:/data", "keys:/keys"}
    manifests = kubernetes()
    (server,) = manifests["StatefulSet/tactful-server"]["spec"]["template"]["spec"]["containers"]
    assert server["ports"] == [{"name": "http", "containerPort": defaults.port}]
    for name, manifest in manifests.items():
        if manifest["kind"] == "StatefulSet":
            spec = manifest["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            claims = [it["metadata"]["name"] for it in manifest["spec"]["volumeClaimTemplates"]]
            volumes = [it["name"] for it in spec.get("volumes", [])]
            mounted = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
            assert sorted(mounted) == sorted(claims + volumes)
            settings = settings_of(f"kubernetes {name}")
            # Root owns a volume and a group may write in it: the server refuses that, not a folder.
            assert settings.storage.data == Path(mounted["data"], "tactful")
            assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
            # What erases people finds them by the same keys, and in the same database.
            assert settings.keyring.parent == Path(mounted["keys"])
            assert settings.metadata.url_env in {it["name"] for it in container["env"]}
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_image_has_what_its_processes_need() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / path).exists() for path in source.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (\w+) \w+$", dockerfile, re.MULTILINE)
    assert {path.split("/")[0] for path in packed} <= set(copied)
    (extras,) = re.findall(r"^ARG EXTRAS=([\w,-]+)$", dockerfile, re.MULTILINE)
    assert 'pip install --no-cache-dir ".[$EXTRAS]"' in dockerfile
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert {"kafka", "redis", "mysql", "search"} <= set(extras.split(","))
    assert 'CMD ["tactful", "serve"' in dockerfile


# The same processes with the same environment, without containers.

Running = subprocess.Popen[str]


@contextlib.contextmanager
def running(name: str, changes: Mapping[str, str], *options: str) -> Iterator[Running]:
    """The process of a service of the compose file, with addresses of this machine."""
    words, environment = CONTAINERS[f"compose {name}"]
    with run(name, words, environment, changes, *options) as process:
        yield process


@contextlib.contextmanager
def run(
    name: str,
    words: list[str],
    environment: Environment,
    changes: Mapping[str, str],
    *options: str,
) -> Iterator[Running]:
    """A command with an environment, with the words and values of both that are changed."""
    command = [sys.executable, "-m", *(changes.get(word, word) for word in words), *options]
    env = {k: v for k, v in os.environ.items() if not k.startswith("TACTFUL_")}
    env |= {variable: changes.get(value, value) for variable, value in environment.items()}
    env |= {variable: value for variable, value in changes.items() if variable.isupper()}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, name


@pytest.fixture
def database(mysql_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(mysql_url)
    yield engine
    tables = [*metadata_tables.tables, metadata.VERSION_TABLE, "tactful_fired_values"]
    with engine.begin() as connection:
        for name in tables:
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    engine.dispose()


@pytest.mark.slow
@pytest.mark.service("kafka", "redis", "mysql")
def test_the_compose_file_without_its_containers(
    kafka_servers: str, redis_url: str, mysql_url: str, database: sa.Engine, tmp_path: Path
) -> None:
    run = uuid.uuid4().hex
    _, environment = CONTAINERS["compose server"]
    changes = {
        "kafka:9092": kafka_servers,
        environment["TACTFUL_REDIS_URL"]: redis_url,
        environment["METADATA_URL"]: mysql_url,
        "0.0.0.0": "127.0.0.1",
        "tactful-features": f"fired-{run}",
        "9464": "0",
        "TACTFUL_LOG__TOPIC": f"log-{run}",
        "TACTFUL_ONLINE__PREFIX": run,
        "TACTFUL_WORKER__GROUP": run,
        "TACTFUL_SERVER__PORT": "0",
        "TACTFUL_SERVER__DEV": "true",
    }
    now = int(time.time() * 1000)

    def event(number: int, minutes_ago: int) -> dict[str, object]:
        user, timestamp = f"{run}-{number % 5}", now - minutes_ago * 60_000
        named = {"event_id": f"{run}-{number}", "type": "view", "timestamp": timestamp}
        return {**named, "user_id": user, "item_id": "cup"}

    with contextlib.ExitStack() as stack:
        of_server = {**changes, "TACTFUL_STORAGE__DATA": str(tmp_path / "server")}
        server = stack.enter_context(running("server", of_server, "--json"))
        url = json.loads(first_line(server))["url"]
        of_workers = {**changes, "TACTFUL_STORAGE__DATA": str(tmp_path / "workers")}
        workers = [
            stack.enter_context(running("worker", of_workers))
            for _ in range(compose()["services"]["worker"]["deploy"]["replicas"])
        ]
        assert all("partitions" in first_line(worker) for worker in workers)
        stack.enter_context(running("sink", changes, "--group", run))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        http.put("/v1/items", json=[{"item_id": "cup", "category": "kitchen", "price": 8}])
        sent = [event(number, 45) for number in range(10)] + [event(n, 0) for n in range(10, 15)]
        position = http.post("/v1/events", json=sent).json()["position"]
        asked = {"user_id": f"{run}-3", "after": position}
        until = time.monotonic() + 120
        while (answer := http.post("/v1/recommend", json=asked)).status_code == 503:
            assert time.monotonic() < until, answer.text
        assert [item["item_id"] for item in answer.json()["items"]] == ["cup"]
        features = http.get(f"/v1/users/{run}-3/features").json()["features"]
        assert len(features["recent_items"]) == 3, "what the workers computed"
        # The clock closes windows while the test runs: each value is that of its own window.
        fired = sa.text(
            "SELECT entity_key, feature_value, window_end FROM tactful_fired_values"
            " WHERE feature = 'viewed_1h' AND group_key = 'kitchen'"
        )
        slide = 300_000
        until = time.monotonic() + 120
        rows: dict[str, tuple[float, int]] = {}
        while len(rows) < 5 or min(end for _, end in rows.values()) <= now - slide:
            assert time.monotonic() < until, rows
            time.sleep(0.2)
            with database.connect() as connection:
                found = connection.execute(fired).all()
            rows = {key: (json.loads(value), end) for key, value, end in found}
        assert set(rows) == {f"{run}-{number}" for number in range(5)}
        for value, end in rows.values():
            panes = {at: end // slide - 1 - at // slide for at in (now - 9 * slide, now)}
            weights = {at: 0.8**age if age >= 0 else 0.0 for at, age in panes.items()}
            assert value == pytest.approx(2 * weights[now - 9 * slide] + weights[now])


def first_line(process: Running) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
