"""The Flink cluster of deploy/ is the tested one, and its job fits the settings of the others."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tarfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from benchmarks.ports import free_port
from tactful.cli.streaming.flink import submit
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.metadata.connections import online_tag
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FlinkError
from tactful_streaming.flink.rest_client import FLINK_VERSION, FlinkCluster, build_runner
from tests.test_deploy import compose, database, first_line, merge, read_compose, run, secret_files
from tests.test_docs import unknown_words

__all__ = ["database"]  # a fixture

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
FLINK = ROOT / "streaming" / "flink"
SCRIPT = (ROOT / "scripts" / "flink").read_text(encoding="utf-8")


def services() -> dict[str, Any]:
    """The services of both files, merged as Docker Compose merges them."""
    return dict(merge(compose(), flink_file())["services"])


def flink_file() -> dict[str, Any]:
    return read_compose("compose.flink.yaml")


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(DEPLOY)  # where there is no tactful.toml
    environment = services()[name]["environment"]
    assert all(isinstance(value, str) for value in environment.values()), "quote numbers"
    return load_settings(environ=environment)


def flat(settings: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings of Flink by their full names."""
    if not isinstance(settings, dict):
        return {prefix.removesuffix("."): str(settings)}
    return {k: v for name, of in settings.items() for k, v in flat(of, f"{prefix}{name}.").items()}


def deployed() -> dict[str, str]:
    return flat(yaml.safe_load((DEPLOY / "flink" / "config.yaml").read_text(encoding="utf-8")))


def run_by_script() -> dict[str, str]:
    """Settings that scripts/flink writes, with which the tests run."""
    (text,) = re.findall(r"<<YAML\n(.*?)^YAML$", SCRIPT, re.MULTILINE | re.DOTALL)
    text = re.sub(r"\$\(free_port\)|\$port", "8081", text)
    for name in ("heap", "state"):
        (default,) = re.findall(rf"{name}=\$\{{TACTFUL_FLINK_{name.upper()}:-(\d+)\}}", SCRIPT)
        text = text.replace(f"${{{name}}}", default)
    text = re.sub(r"\$\{TACTFUL_FLINK_SLOTS:-(\d+)\}", r"\1", text).replace("$run", "/flink")
    return flat(yaml.safe_load(text))


def test_one_version_of_flink() -> None:
    pinned = (FLINK / "jars.txt").read_text(encoding="utf-8")
    assert re.findall(r"^apache-flink-libraries==(\S+)", pinned, re.MULTILINE) == [FLINK_VERSION]
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    steps = (ROOT / "scripts" / "image-steps").read_text(encoding="utf-8")
    for source in (steps, SCRIPT):
        assert "--require-hashes" in source
        assert "--requirement streaming/flink/jars.txt" in source
        assert "streaming/flink/unpack_jars.py" in source
    assert "image-steps flink /opt/flink" in dockerfile
    assert "streaming/flink/java.options streaming/flink/log4j.properties" in steps
    assert "COPY streaming streaming" in dockerfile
    assert "FROM tactful AS flink" in dockerfile
    assert dockerfile.rstrip().endswith("\nFROM tactful"), "the default of a build"
    (release,) = re.findall(r"openjdk-(\d+)-jdk-headless", dockerfile)
    assert release in ("17", "21")  # as scripts/flink accepts


def test_the_settings_are_those_of_the_tests() -> None:
    ours, tested = deployed(), run_by_script()
    assert set(ours) == set(tested)
    changed = {name for name in ours if ours[name] != tested[name]}
    places = r".*(host|address|dirs?|rpc\.port|savepoint-dir)"
    assert {name for name in changed if not re.fullmatch(places, name)} == set()
    assert ours["jobmanager.rpc.address"] == ours["rest.address"] == "jobmanager"
    assert ours["taskmanager.host"] == "taskmanager"
    assert {"jobmanager", "taskmanager"} <= set(services())
    for name in ("jobmanager", "taskmanager", "submit"):
        assert services()[name]["volumes"] == ["flink:/flink"]
    for name in ("dir", "savepoint-dir"):
        assert ours[f"execution.checkpointing.{name}"].startswith("file:///flink/")
    assert "COPY deploy/flink /opt/flink/conf" in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_both_processes_are_started_as_in_the_tests() -> None:
    for name in ("jobmanager", "taskmanager"):
        command = services()[name]["command"]
        (launched,) = re.findall(rf"launch {name} (\S+) (.+)$", SCRIPT, re.MULTILINE)
        kind, heap = launched
        if "heap" in heap:
            heap = str(512 + int(re.findall(r"heap \+ (\d+)", heap)[0]))
        assert command == [
            "java",
            f"-Xmx{heap}m",
            "@/opt/flink/java.options",
            "-Dlog4j.configurationFile=/opt/flink/log4j.properties",
            "-cp",
            "/opt/flink/lib/*",
            kind,
            "--configDir",
            "/opt/flink/conf",
        ]
    for name in ("java.options", "log4j.properties"):
        assert f"streaming/flink/{name}" in SCRIPT
        assert (FLINK / name).is_file()


def test_the_job_fits_server_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    server, worker = (settings_of(name, monkeypatch) for name in ("server", "worker"))
    for section in ("engine", "identity", "online", "flink"):
        assert getattr(server, section) == getattr(worker, section)
    assert server.engine.kind == "flink"
    words = services()["submit"]["command"]
    assert unknown_words([word for word in words[1:] if ":" not in word]) == []
    file, *options = words[3:]
    local = str(ROOT / Path(file).relative_to("/src"))
    given = submit.make_context("submit", [local, *options]).params
    assert given["topic"] == server.log.topic
    assert given["servers"] == server.log.brokers
    assert given["cluster"] == server.flink.cluster
    assert given["jar"] == "/opt/flink/tactful-flink.jar"
    steps = (ROOT / "scripts" / "image-steps").read_text(encoding="utf-8")
    assert f'home / "{Path(given["jar"]).name}"' in steps
    for name in ("entities_topic", "erased_topic", "job"):
        assert given[name] == getattr(server.flink, name)
    for name in ("watermark_delay_ms", "allowed_lateness_ms", "dedupe_days"):
        assert given[name] == getattr(server.engine, name)
    tags = {online_tag(load_definitions(path)) for path in (Path(local), server.features)}
    assert len(tags) == 1, "values of other definitions are not copied"


def test_services_volumes_and_ports_exist() -> None:
    mounts = [volume for it in services().values() for volume in it.get("volumes", [])]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == {*compose()["volumes"], *flink_file()["volumes"]}
    for service in services().values():
        assert set(service.get("depends_on", {})) <= set(services())
    manager = services()["jobmanager"]
    assert manager["ports"] == ["127.0.0.1:8081:8081"]
    assert manager["build"]["target"] == "flink"
    used = {name for name, it in services().items() if it.get("image") == manager["image"]}
    assert used == {"jobmanager", "taskmanager", "submit"}
    assert services()["sink"]["deploy"]["replicas"] == 0  # no rows are written beside entities


def test_jars_are_unpacked(tmp_path: Path) -> None:
    """Flink's own, and the named ones of the other package alone."""
    packages, lib = tmp_path / "packages", tmp_path / "flink" / "lib"
    packages.mkdir()
    own = tmp_path / "own.jar"
    own.write_bytes(b"own")
    with tarfile.open(packages / "apache_flink_libraries-2.tar.gz", "w:gz") as archive:
        archive.add(own, "apache-flink-2/deps/lib/flink-dist-2.jar")
        archive.add(own, "apache-flink-2/deps/opt/flink-other.jar")
        archive.add(own, "apache-flink-2/deps/lib/README")
    connectors = (FLINK / "connectors.txt").read_text(encoding="utf-8").split()
    with zipfile.ZipFile(packages / "shigawire_apache_flink.whl", "w") as archive:
        for name in (*connectors, "flink-core"):
            archive.writestr(f"pyflink/lib/{name}.jar", name)
    script = [sys.executable, str(FLINK / "unpack_jars.py"), str(packages), str(lib)]
    subprocess.run(script, check=True, timeout=60)
    found = {path.name: path.read_bytes().decode() for path in lib.iterdir()}
    assert found == {"flink-dist-2.jar": "own"} | {f"{name}.jar": name for name in connectors}


@contextlib.contextmanager
def flink_process(name: str, changes: Mapping[str, str], log: Path) -> Iterator[None]:
    words = services()[name]["command"]
    for old, new in changes.items():
        words = [word.replace(old, new) for word in words]
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def cluster(flink_home: Path, folder: Path, port: int) -> Iterator[None]:
    """JobManager and TaskManager with the settings of deploy/, on addresses of this machine."""
    text = (DEPLOY / "flink" / "config.yaml").read_text(encoding="utf-8")
    for old, new in {
        "0.0.0.0": "127.0.0.1",
        "address: jobmanager": "address: 127.0.0.1",
        "host: taskmanager": "host: 127.0.0.1",
        "6123": str(free_port()),
        "8081": str(port),
        "file:///flink": f"file://{folder}",
        "/tmp/": f"{folder}/",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(text, encoding="utf-8")
    changes = {
        "/opt/flink/lib": f"{flink_home}/lib",
        "/opt/flink/conf": f"{folder}/conf",
        "/opt/flink/java.options": str(FLINK / "java.options"),
        "/opt/flink/log4j.properties": str(FLINK / "log4j.properties"),
    }
    with (
        flink_process("jobmanager", changes, folder / "jobmanager.log"),
        flink_process("taskmanager", changes, folder / "taskmanager.log"),
        FlinkCluster(f"http://127.0.0.1:{port}") as flink,
    ):
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(FlinkError):
                if flink.version() == FLINK_VERSION:
                    break
            assert time.monotonic() < until, (folder / "jobmanager.log").read_text()
            time.sleep(0.5)
        yield


@pytest.mark.slow
@pytest.mark.service("kafka", "redis", "mysql", "flink")
def test_both_files_without_their_containers(
    kafka_servers: str,
    redis_url: str,
    mysql_url: str,
    database: sa.Engine,
    flink_home: Path,
    tmp_path: Path,
) -> None:
    """A list is made from what the job computed."""
    name, port, merged = uuid.uuid4().hex, free_port(), services()
    changes = {
        "kafka:9092": kafka_servers,
        **secret_files(tmp_path, redis_url=redis_url, database_url=mysql_url),
        "http://jobmanager:8081": f"http://127.0.0.1:{port}",
        "0.0.0.0": "127.0.0.1",
        "9464": "0",
        "/src/platform/tactful/features.yaml": str(ROOT / "platform/tactful/features.yaml"),
        "/opt/flink/tactful-flink.jar": str(build_runner(flink_home)),
        "tactful-log": f"log-{name}",
        "tactful-entities": f"entities-{name}",
        "tactful-erased": f"erased-{name}",
        "/keys/keyring.json": str(tmp_path / "keyring.json"),
        "TACTFUL_LOG__TOPIC": f"log-{name}",
        "TACTFUL_FLINK__ENTITIES_TOPIC": f"entities-{name}",
        "TACTFUL_FLINK__ERASED_TOPIC": f"erased-{name}",
        "TACTFUL_ONLINE__PREFIX": name,
        "TACTFUL_WORKER__GROUP": name,
        "TACTFUL_SERVER__PORT": "0",
        "TACTFUL_SERVER__DEV": "true",
    }
    with contextlib.ExitStack() as stack:

        def start(what: str, *options: str) -> Any:
            own = {**changes, "TACTFUL_STORAGE__DATA": str(tmp_path / what)}
            words, variables = merged[what]["command"], merged[what].get("environment", {})
            return stack.enter_context(run(what, words, variables, own, *options))

        stack.enter_context(cluster(flink_home, tmp_path, port))
        url = json.loads(first_line(start("server", "--json")))["url"]
        assert "partitions" in first_line(start("worker"))
        submitted = start("submit", "--group", name)
        http = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        http.put("/v1/items", json=[{"item_id": "cup", "category": "kitchen", "price": 8}])
        now = int(time.time() * 1000)
        seen = {"type": "view", "timestamp": now, "user_id": name, "item_id": "cup"}
        sent = [{"event_id": f"{name}-{number}", **seen} for number in range(3)]
        position = http.post("/v1/events", json=sent).json()["position"]
        asked = {"user_id": name, "after": position}
        until = time.monotonic() + 240
        while (answer := http.post("/v1/recommend", json=asked)).status_code == 503:
            assert time.monotonic() < until, answer.text
            assert submitted.poll() in (None, 0)
            time.sleep(0.5)
        assert [item["item_id"] for item in answer.json()["items"]] == ["cup"]
        features = http.get(f"/v1/users/{name}/features").json()["features"]
        assert len(features["recent_items"]) == 3, "what the job computed"
