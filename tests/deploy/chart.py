"""The chart of deploy/helm, rendered without a cluster, and policies about its manifests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import kubernetes_validate.utils
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "tactful"

NEWEST = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-2:]
"""Versions of Kubernetes by whose schemas manifests are checked."""

WITHOUT_SCHEMA = {"ServiceMonitor"}  # a resource of the Prometheus Operator, not of Kubernetes
WITHOUT_PROBES = {"sink"}  # it has no port, and ends when it cannot work

EVERYTHING: Mapping[str, Any] = {
    "worker": {"autoscaling": {"enabled": True}},
    "monitoring": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
    "shared": {"storageClass": "shared"},
    "networkPolicy": {"egress": [{"ports": [{"port": 5000, "protocol": "TCP"}]}]},
}
"""Values that switch on all that the chart has."""

Manifest = dict[str, Any]

# Helm is a library in Go, whose threads and signal handlers stay out of the process of the tests.
_HELM = """
import json, sys
import helm_python as helm
folder, name, version, values = sys.argv[1:]
values = json.loads(values)
report = helm.lint(folder, values, strict=True, kube_version=f"v{version}")
try:
    rendered = helm.Chart.load(folder).render(values, name=name, namespace="shop")
except helm.HelmError as error:
    rendered = {"error": str(error)}
json.dump([report, rendered], sys.stdout)
"""


class ChartError(Exception):
    """The chart refuses its values, or a template fails."""


def render(
    values: Mapping[str, Any] | None = None, *, folder: Path = CHART, name: str = "tactful"
) -> list[Manifest]:
    """Lint and render the chart; return its manifests.

    Raises:
        ChartError: with what Helm finds wrong.
    """
    words = [sys.executable, "-c", _HELM, str(folder), name, NEWEST[-1], json.dumps(values or {})]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    report, rendered = json.loads(done.stdout)
    if "error" in rendered:
        raise ChartError(rendered["error"])
    wrong = [it["error"] for it in report["messages"] if it["severity"] > 1]  # 1: a hint
    if wrong or report["errors"]:
        raise ChartError("\n".join([*wrong, *report["errors"]]))
    texts = [text for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def schema_problems(manifests: Sequence[Manifest], version: str) -> list[str]:
    """What the strict schemas of a version of Kubernetes refuse."""
    problems = []
    for manifest in manifests:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(map(str, error.path))
            problems.append(f"{_name(manifest)}: {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            if manifest["kind"] not in WITHOUT_SCHEMA:
                problems.append(f"{_name(manifest)}: {error.message}")
    return problems


def policy_problems(manifests: Sequence[Manifest]) -> list[str]:
    """What breaks a rule of ours; the rules are those of the restricted Pod Security Standard."""
    problems = []
    for manifest in manifests:
        if "template" not in manifest.get("spec", {}):
            continue
        pod = manifest["spec"]["template"]["spec"]
        found = list(_pod_problems(pod))
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            found += _container_problems(container)
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        for kind in ("NetworkPolicy", "PodDisruptionBudget"):
            if kind == "PodDisruptionBudget" and manifest["kind"] == "Deployment":
                continue  # a sink that is away delays rows, and loses none
            if not any(_selects(it, labels) for it in manifests if it["kind"] == kind):
                found.append(f"no {kind} selects it")
        problems += [f"{_name(manifest)}: {problem}" for problem in found]
    return problems


def _pod_problems(pod: Manifest) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "it may run as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "it has a token of the Kubernetes API"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it shares a namespace with its node"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a folder of the node"


def _container_problems(container: Manifest) -> Iterator[str]:
    name, security = container["name"], container.get("securityContext", {})
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield f"{name} may write to its image"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{name} has capabilities"
    for kind in ("requests", "limits"):
        if set(container.get("resources", {}).get(kind, {})) != {"cpu", "memory"}:
            yield f"{name} has no {kind} of cpu and memory"
    image = container["image"].rpartition("/")[2]
    if ":" not in image or ":latest" in image:
        yield f"{name} has an image without a version"
    if name not in WITHOUT_PROBES:
        ports = {port["name"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            if container.get(kind, {}).get("httpGet", {}).get("port") not in ports:
                yield f"{name} has no {kind} of a port of its own"
    for variable in container.get("env", []):
        if any(word in variable["name"] for word in ("PASSWORD", "REDIS_URL", "SECRET")) and (
            not variable["name"].endswith("_FILE")
        ):
            yield f"{name} has a secret in the variable {variable['name']}"


def _selects(policy: Manifest, labels: Mapping[str, str]) -> bool:
    selector = policy["spec"].get("podSelector") or policy["spec"].get("selector")
    return bool(selector["matchLabels"].items() <= labels.items())


def _name(manifest: Manifest) -> str:
    return f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
