"""The chart passes Helm, the schemas of two versions of Kubernetes, and policies of ours."""

from __future__ import annotations

import copy
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes_validate", reason="it is in the group dev")
pytest.importorskip("helm_python", reason="helm-python-sdk is in the group dev")

from tests.deploy.chart import (
    CHART,
    EVERYTHING,
    NEWEST,
    ROOT,
    ChartError,
    Manifest,
    policy_problems,
    render,
    schema_problems,
)

Plant = Callable[[Manifest], object]


@pytest.fixture(scope="module")
def plain() -> list[Manifest]:
    return render()


@pytest.fixture(scope="module")
def everything() -> list[Manifest]:
    return render(EVERYTHING, name="shop")


def container(manifest: Manifest) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def named(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = [it for it in manifests if f"{it['kind']}/{it['metadata']['name']}" == name]
    return found


@pytest.mark.parametrize("version", NEWEST)
def test_manifests_fit_the_schemas(
    plain: list[Manifest], everything: list[Manifest], version: str
) -> None:
    assert len(plain) > 10
    assert len(everything) > len(plain)
    assert schema_problems(plain, version) == []
    assert schema_problems(everything, version) == []


def test_manifests_keep_the_policies(plain: list[Manifest], everything: list[Manifest]) -> None:
    assert policy_problems(plain) == []
    assert policy_problems(everything) == []


@pytest.mark.parametrize(
    ("name", "plant", "problem"),
    [
        ("worker", lambda c: c["securityContext"].update(privileged=True), "may gain privileges"),
        ("worker", lambda c: c.pop("livenessProbe"), "no livenessProbe"),
        ("server", lambda c: c["startupProbe"]["httpGet"].update(port="other"), "no startupProbe"),
        ("server", lambda c: c["resources"].pop("limits"), "no limits"),
        ("server", lambda c: c.update(image="reg:5000/tactful:latest"), "without a version"),
        ("server", lambda c: c.update(image="reg:5000/tactful"), "without a version"),
        ("server", lambda c: c["securityContext"].pop("capabilities"), "has capabilities"),
        ("worker", lambda c: c["securityContext"].pop("readOnlyRootFilesystem"), "may write"),
        ("worker", lambda c: c["env"].append({"name": "KAFKA_PASSWORD", "value": "x"}), "a secret"),
    ],
)
def test_a_planted_container_breaks_a_policy(
    plain: list[Manifest], name: str, plant: Plant, problem: str
) -> None:
    changed = copy.deepcopy(plain)
    plant(container(named(changed, f"StatefulSet/tactful-{name}")))
    (found,) = policy_problems(changed)
    assert problem in found


@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        (lambda pod: pod.pop("securityContext"), "it may run as root"),
        (lambda pod: pod.update(hostNetwork=True), "shares a namespace"),
        (lambda pod: pod.pop("automountServiceAccountToken"), "a token"),
        (lambda pod: pod["volumes"].append({"name": "n", "hostPath": {"path": "/"}}), "folder of"),
    ],
)
def test_a_planted_pod_breaks_a_policy(plain: list[Manifest], plant: Plant, problem: str) -> None:
    changed = copy.deepcopy(plain)
    plant(named(changed, "Deployment/tactful-sink")["spec"]["template"]["spec"])
    assert any(problem in found for found in policy_problems(changed))


def test_a_pod_without_a_network_policy_or_budget_breaks_a_policy(plain: list[Manifest]) -> None:
    for kind, pods in (("NetworkPolicy", 3), ("PodDisruptionBudget", 2)):
        found = policy_problems([it for it in plain if it["kind"] != kind])
        assert len(found) == pods
        assert all(f"no {kind} selects it" in problem for problem in found)


@pytest.mark.parametrize(
    "plant",
    [
        lambda it: container(it).update(livenessProb={}),
        lambda it: container(it)["ports"][0].update(containerPort="many"),
        lambda it: it["spec"].pop("selector"),
        lambda it: it.update(apiVersion="apps/v1beta9"),
    ],
)
def test_a_wrong_field_fits_no_schema(plain: list[Manifest], plant: Plant) -> None:
    changed = copy.deepcopy(plain)
    plant(named(changed, "StatefulSet/tactful-server"))
    for version in NEWEST:
        (found,) = schema_problems(changed, version)
        assert found.startswith("StatefulSet/tactful-server")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"sever": {}}, "'sever' not allowed"),
        ({"image": "tactful:latest"}, "/image"),
        ({"image": "tactful"}, "/image"),
        ({"server": {"resources": {"limits": None}}}, "/server/resources"),
        ({"worker": {"replicas": 17}}, "17 workers for 16 partitions"),
        ({"worker": {"autoscaling": {"enabled": True, "maxReplicas": 17}}}, "17 workers"),
        ({"settings": {"TACTFUL_LOG__CONSUMER_THREADS": 8}}, "CONSUMER_THREADS"),
        ({"settings": {"TACTFUL_SERVER_PORT": "1"}}, "TACTFUL_SERVER_PORT"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ChartError, match=re.escape(problem)):
        render(values)


def test_a_broken_template_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tactful"
    shutil.copytree(CHART, folder)
    with (folder / "templates" / "sink.yaml").open("a") as file:
        file.write('\n{{ include "nothing" . }}\n')
    with pytest.raises(ChartError, match="nothing"):
        render(folder=folder)


def test_names_and_versions_agree(plain: list[Manifest], everything: list[Manifest]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = (CHART / "Chart.yaml").read_text("utf-8")
    assert f"\nversion: {project['version']}\nappVersion: {project['version']}\n" in chart
    assert (ROOT / "deploy" / ".env").resolve() == CHART / "images.env"
    image = container(named(plain, "StatefulSet/tactful-worker"))["image"]
    assert image == f"tactful:{project['version']}"
    given = render({"image": "registry.example:5000/shop/tactful:2.0"})
    images = {container(it)["image"] for it in given if "template" in it.get("spec", {})}
    assert images == {"registry.example:5000/shop/tactful:2.0"}
    # What belongs together has one name in each release, and all claims and services exist.
    for manifests, release in ((plain, "tactful"), (everything, "shop")):
        present = {f"{it['kind']}/{it['metadata']['name']}" for it in manifests}
        assert all(name.rpartition("/")[2].startswith(release) for name in present)
        for it in manifests:
            if it["kind"] == "StatefulSet":
                assert f"Service/{it['spec']['serviceName']}" in present
            pod = it.get("spec", {}).get("template", {}).get("spec", {})
            for volume in pod.get("volumes", []):
                if claim := volume.get("persistentVolumeClaim"):
                    assert f"PersistentVolumeClaim/{claim['claimName']}" in present
            if pod:
                assert f"ServiceAccount/{pod['serviceAccountName']}" in present


def test_workers_are_scaled_by_their_lag(everything: list[Manifest]) -> None:
    scaler = named(everything, "HorizontalPodAutoscaler/shop-worker")["spec"]
    target = named(everything, f"StatefulSet/{scaler['scaleTargetRef']['name']}")
    assert "replicas" not in target["spec"], "an upgrade would undo what the scaler did"
    (metric,) = scaler["metrics"]
    # The metric that the rule of the adapter makes, in the document.
    document = (ROOT / "docs" / "how-to" / "scale-out.md").read_text("utf-8")
    assert f"as: {metric['pods']['metric']['name']}\n" in document
    assert "tactful_worker_lag_records" in document


def test_monitors_name_ports_of_services(everything: list[Manifest]) -> None:
    for monitor in (it for it in everything if it["kind"] == "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [
            it
            for it in everything
            if it["kind"] == "Service" and wanted <= it["metadata"]["labels"].items()
        ]
        ports = [port["name"] for it in services for port in it["spec"].get("ports", [])]
        assert ports == [endpoint["port"]]
