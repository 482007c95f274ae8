"""What deploy/ starts fits the settings and commands, and does what it says with real services."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
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

from benchmarks.ports import free_port
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.metadata import store as metadata
from tactful.metadata.tables import tables as metadata_tables
from tests.test_docs import unknown_words

pytest.importorskip("kubernetes_validate", reason="it is in the group dev")
pytest.importorskip("helm_python", reason="helm-python-sdk is in the group dev")

from tests.deploy.chart import render

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"

KNOWN = {  # variables of ours that are no settings
    "TACTFUL_REDIS_URL_FILE",
    "TACTFUL_SINK_TARGET_FILE",
}
Environment = dict[str, str]


def images() -> dict[str, str]:
    """The images of deploy/.env by the names of their variables."""
    lines = (DEPLOY / ".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def read_compose(name: str) -> dict[str, Any]:
    """A compose file, with its variables filled in."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    text = re.sub(r"(?<!\$)\$\{(\w+)\}", lambda match: images()[match[1]], text)
    assert "${" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def compose() -> dict[str, Any]:
    return read_compose("compose.yaml")


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two files, merged as Docker Compose merges them: mappings by key, and the rest replaced.

    Lists of ports, volumes and secrets would be joined, so only one file may have them.
    """
    merged = dict(first)
    for name, value in second.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = merge(merged[name], value)
        else:
            assert name not in ("ports", "volumes", "secrets") or not merged.get(name), name
            merged[name] = value
    return merged


def containers() -> Iterator[tuple[str, list[str], Environment]]:
    """Every container of ours: where it is defined, its command, its environment."""
    files = {"compose": compose(), "kafka": merge(compose(), read_compose("compose.kafka.yaml"))}
    for file, document in files.items():
        for name, service in document["services"].items():
            if service["image"] == images()["TACTFUL_IMAGE"] and name != "mlflow":
                yield f"{file} {name}", service["command"], service.get("environment", {})
    manifests = {f"{it['kind']}/{it['metadata']['name']}": it for it in render()}
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
        assert "TACTFUL_SINK_TARGET_FILE" in environment
        return
    for variable in (settings.metadata.url_env, settings.online.url_env):
        assert f"{variable}_FILE" in environment
    assert settings.log.kind == "kafka"


@pytest.mark.parametrize("where", ["compose {}", "kafka {}", "kubernetes StatefulSet/tactful-{}"])
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
    mounts = [volume for it in services.values() for volume in it.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(compose()["volumes"])
    for mount in mounts:
        if mount.startswith("."):
            assert (DEPLOY / mount.split(":")[0]).is_dir()
            assert mount.endswith(":ro")
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "VOLUME /data" in dockerfile
    assert "--mode 0700 /data /keys" in dockerfile
    volumes = [*services["server"]["volumes"], *services["worker"]["volumes"]]
    assert set(volumes) == {"server:/data", "workers:/data", "keys:/keys"}
    port = services["worker"]["environment"]["TACTFUL_WORKER__METRICS_PORT"]
    assert f"{port}/readyz" in services["worker"]["healthcheck"]["test"][-1]
    manifests = {f"{it['kind']}/{it['metadata']['name']}": it for it in render()}
    (server,) = manifests["StatefulSet/tactful-server"]["spec"]["template"]["spec"]["containers"]
    assert server["ports"] == [{"name": "http", "containerPort": defaults.port}]
    for name in ("StatefulSet/tactful-server", "StatefulSet/tactful-worker"):
        manifest = manifests[name]
        spec = manifest["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        claims = [it["metadata"]["name"] for it in manifest["spec"]["volumeClaimTemplates"]]
        given = [it["name"] for it in spec["volumes"]]
        mounted = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
        assert sorted(mounted) == sorted(claims + given)
        settings = settings_of(f"kubernetes {name}")
        # Root owns a volume and a group may write in it: the server refuses that, not a folder.
        assert settings.storage.data == Path(mounted["data"], "tactful")
        assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        # What erases people finds them by the same keys, and in the same database.
        assert settings.keyring.parent == Path(mounted["keys"])
        environment = CONTAINERS[f"kubernetes {name}"][1]
        for variable, value in environment.items():
            if variable.endswith("_FILE"):
                assert Path(value).parent == Path(mounted["secrets"])
        # Caches and progress are on the volume: the file system of the image is read-only.
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            assert f"{variable}={mounted['data']}/" in dockerfile


def test_services_are_confined() -> None:
    """No service has rights that it does not need, and each is restarted and watched."""
    for name in ("compose.yaml", "compose.kafka.yaml", "compose.flink.yaml"):
        document = read_compose(name)
        for service, it in document["services"].items():
            if "image" not in it:
                continue  # it adds to a service of compose.yaml
            assert it["cap_drop"] == ["ALL"], service
            assert it["security_opt"] == ["no-new-privileges:true"], service
            assert it["user"] not in ("0", "root"), service
            assert not it.get("privileged"), service
            assert "network_mode" not in it, service
            assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", it["image"])
            if service != "submit":
                assert it["restart"] == "always", service
            if service not in ("sink", "submit"):
                assert "healthcheck" in it, service
            # Of the images of others these two write to themselves at the start.
            if not service.startswith(("kafka", "mariadb", "jobmanager", "taskmanager", "submit")):
                assert it["read_only"], service
            for port in it.get("ports", []):
                assert port.startswith("127.0.0.1:"), service


def test_secrets_are_files_that_the_script_makes(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ROOT / "scripts" / "secrets"
    subprocess.run([script, folder], check=True, timeout=60)
    document = compose()
    assert {Path(it["file"]).name for it in document["secrets"].values()} | {"redis_password"} == {
        path.name for path in folder.iterdir()
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    for name, service in document["services"].items():
        text = json.dumps(service)
        assert set(re.findall(r"/run/secrets/(\w+)", text)) <= set(service.get("secrets", [])), name
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or "FILE" in variable or value == "yes", variable
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert before["mariadb_password"] in before["database_url"]
    assert len(before["mariadb_password"]) == 48
    (folder / "monitor_key").write_text("key")
    subprocess.run([script, folder], check=True, timeout=60)
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert after == {**before, "monitor_key": "key"}, "a second run changes nothing"


@contextlib.contextmanager
def own_redis(acl: Path) -> Iterator[int]:
    """Redis with the command of the compose file, on a port of its own."""
    port = free_port()
    words = [
        w.replace("/run/secrets/redis_acl", str(acl))
        for w in compose()["services"]["redis"]["command"]
    ]
    process = subprocess.Popen(
        [*words, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(acl.parent)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def test_redis_answers_its_health_check_and_strangers_nothing(tmp_path: Path) -> None:
    if not (shutil.which("redis-server") and shutil.which("redis-cli")):
        pytest.skip("no redis-server here")
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "scripts" / "secrets", folder], check=True, timeout=60)
    word, program, *options = compose()["services"]["redis"]["healthcheck"]["test"]
    assert word == "CMD"

    def ask(*words: str) -> tuple[int, str]:
        done = subprocess.run([program, "-p", str(port), *words], capture_output=True, text=True)
        return done.returncode, done.stdout.strip()

    with own_redis(folder / "redis_acl") as port:
        until = time.monotonic() + 30
        while ask(*options) != (0, "PONG"):
            assert time.monotonic() < until
            time.sleep(0.05)
        user = (*options[:-1], "get", "tactful:a")
        for words in (user, ("-e", "ping"), ("-e", "--user", "tactful", "--pass", "x", "ping")):
            assert ask(*words)[0] != 0, words
        given = ("-e", "--user", "tactful", "--pass", (folder / "redis_password").read_text())
        assert ask(*given, "set", "tactful:a", "1") == (0, "OK")
        for refused in (("set", "other", "1"), ("flushall",), ("config", "get", "*")):
            assert ask(*given, *refused)[0] != 0, refused


def test_three_brokers_are_one_cluster() -> None:
    services = merge(compose(), read_compose("compose.kafka.yaml"))["services"]
    brokers = {name: it["environment"] for name, it in services.items() if "kafka" in name}
    assert list(brokers) == ["kafka", "kafka-2", "kafka-3"]
    voters = ",".join(f"{env['KAFKA_NODE_ID']}@{name}:9093" for name, env in brokers.items())
    for name, environment in brokers.items():
        assert environment["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        assert environment["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        assert environment["CLUSTER_ID"] == brokers["kafka"]["CLUSTER_ID"]
        assert environment.keys() == brokers["kafka"].keys()
        own = {"KAFKA_NODE_ID", "KAFKA_ADVERTISED_LISTENERS"}
        assert {k for k in environment if environment[k] != brokers["kafka"][k]} <= own
    addresses = ",".join(f"{name}:9092" for name in brokers)
    for name in ("server", "worker"):
        log = settings_of(f"kafka {name}").log
        assert (log.brokers, log.replication) == (addresses, 3)
    assert addresses in services["sink"]["command"]
    assert services["server"]["depends_on"].keys() >= brokers.keys()


def test_prometheus_and_grafana_find_what_they_show(tmp_path: Path) -> None:
    services = compose()["services"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "compose.yaml").read_text("utf-8"))
    server, workers = config["scrape_configs"]
    assert server["static_configs"] == [{"targets": [f"server:{Settings().server.port}"]}]
    (found,) = workers["dns_sd_configs"]
    assert found["names"] == ["worker"]
    assert str(found["port"]) == services["worker"]["environment"]["TACTFUL_WORKER__METRICS_PORT"]
    assert "--config.file=/etc/prometheus/compose.yaml" in services["prometheus"]["command"]
    if tool := shutil.which("promtool"):
        key = tmp_path / "key"
        key.write_text("key")
        text = (DEPLOY / "prometheus" / "compose.yaml").read_text("utf-8")
        text = text.replace("/run/secrets/monitor_key", str(key))
        (tmp_path / "compose.yaml").write_text(text)
        shutil.copy(DEPLOY / "prometheus" / "rules.yaml", tmp_path)
        command = [tool, "check", "config", str(tmp_path / "compose.yaml")]
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "tactful.yaml").read_text())[
        "providers"
    ]
    assert f"./grafana:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_the_image_has_what_its_processes_need() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / path).exists() for path in source.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (\w+) \w+$", dockerfile, re.MULTILINE)
    assert {path.split("/")[0] for path in packed} <= set(copied)
    (extras,) = re.findall(r"^ARG EXTRAS=([\w,-]+)$", dockerfile, re.MULTILINE)
    steps = (ROOT / "scripts" / "image-steps").read_text(encoding="utf-8")
    assert f"EXTRAS:-{extras}}}" in steps
    assert "scripts/image-steps install /opt/tactful" in dockerfile
    for service in compose()["services"].values():
        if "build" in service:
            assert service["build"]["args"] == {"PYTHON_IMAGE": images()["PYTHON_IMAGE"]}
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


def secret_files(folder: Path, **secrets: str) -> dict[str, str]:
    """Write secrets to files; return the changes of their paths in a container."""
    for name, value in secrets.items():
        (folder / name).write_text(f"{value}\n")
    return {f"/run/secrets/{name}": str(folder / name) for name in secrets}


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
    kafka_servers: str, mysql_url: str, database: sa.Engine, tmp_path: Path
) -> None:
    """Redis has the rights of the compose file, so what server and workers lack would show."""
    run = uuid.uuid4().hex
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "scripts" / "secrets", folder], check=True, timeout=60)
    redis_url = (folder / "redis_url").read_text().strip()
    changes = {
        "kafka:9092": kafka_servers,
        **secret_files(tmp_path, database_url=mysql_url),
        "/run/secrets/redis_url": str(folder / "redis_url"),
        "HOME": "/proc",  # nobody can write there, as in a read-only container
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "0.0.0.0": "127.0.0.1",
        "tactful-features": f"fired-{run}",
        "9464": "0",
        "TACTFUL_LOG__TOPIC": f"log-{run}",
        "TACTFUL_ONLINE__PREFIX": f"tactful-{run}",
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
        port = stack.enter_context(own_redis(folder / "redis_acl"))
        (folder / "redis_url").write_text(redis_url.replace("redis:6379", f"127.0.0.1:{port}"))
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


@pytest.mark.slow
@pytest.mark.service("mysql")
def test_mlflow_keeps_its_records_in_the_database(mysql_url: str, tmp_path: Path) -> None:
    """Its command in the compose file answers by the name that the server uses, and no other."""
    service, server = (compose()["services"][name] for name in ("mlflow", "server"))
    name, port = f"mlflow_{uuid.uuid4().hex}", free_port()
    engine = sa.create_engine(mysql_url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
    own = sa.make_url(mysql_url).set(database=name)
    (tmp_path / "url").write_text(own.render_as_string(hide_password=False))
    shell, option, text = service["command"]
    for old, new in {
        "/run/secrets/mlflow_url": str(tmp_path / "url"),
        "--port 5000": f"--port {port}",
        "0.0.0.0": "127.0.0.1",
        "/data/artifacts": str(tmp_path / "artifacts"),
        "$$": "$",
        "exec mlflow": f"exec {sys.executable} -m mlflow",
    }.items():
        assert old in text
        text = text.replace(old, new)
    process = subprocess.Popen([shell, option, text], cwd=tmp_path, start_new_session=True)
    try:
        named = server["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 240
        with httpx.Client(base_url=url, timeout=30) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health").is_success:
                        break
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.3)
            search = "/api/2.0/mlflow/experiments/search"
            asked = {"max_results": 5}
            answer = client.post(search, json=asked, headers={"Host": named})
            assert answer.status_code == 200, answer.text
            assert [it["name"] for it in answer.json()["experiments"]] == ["Default"]
            assert client.post(search, json=asked, headers={"Host": "evil.example"}).is_error
        with engine.connect() as connection:
            rows = connection.execute(sa.text(f"SELECT name FROM {name}.experiments")).all()
        assert [row[0] for row in rows] == ["Default"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name}"))
        engine.dispose()


def first_line(process: Running) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
