"""Regret of served bandits beside mabwiser and Vowpal Wabbit, on four problems.

All policies see the same contexts and rewards, decide in batches of ten, and learn a batch later.
Ours are those of a `bandits.yaml`, as the peers without a least share of an arm. Of each peer the
better policy of `benchmarks.peers.bandit_regret` counts. On `drift` ours forgets, by the `memory`
of a `bandits.yaml`; the peers run as on the other problems.

| problem | arms | features | |
|---|---|---|---|
| `banner` | 10 | none | clicks of 2 to 12 % |
| `contexts` | 8 | 5 | clicks that depend on the context |
| `drift` | 8 | 5 | the same, with other preferences in the second half |
| `delay` | 8 | 5 | rewards come 200 decisions later |
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from tactful.bandits.decisions import draw
from tactful.bandits.definitions import BanditDefinition, read_bandit
from tactful.bandits.model import BanditModel, arrays_of, new_policy
from tactful_bandits.policies.linear import LinearBandit

Floats = NDArray[np.float64]

_ROOT = Path(__file__).resolve().parents[2]
_BATCH = 10
_PROBLEMS = ("banner", "contexts", "drift", "delay")
_PEERS = ("mabwiser", "vw")
FIGURES = [
    ("regret_vs_best_peer_max", "1"),
    *((f"regret_{name}_vs_{peer}", "1") for name in _PROBLEMS for peer in _PEERS),
]


def figures(quick: bool) -> list[Figure]:
    """Play all problems, ours here and the peers in an environment of their own."""
    runs, n = (12, 1_000) if quick else (20, 4_000)
    problems = {name: _problem(name, runs, n) for name in _PROBLEMS}
    theirs = _peers(problems)
    found = []
    for name, problem in problems.items():
        ours = np.array([_ours(name, problem, run) for run in range(runs)])
        for peer in _PEERS:
            policies = {key: it for key, it in theirs[name].items() if key.startswith(peer)}
            best = min(policies, key=lambda key: float(np.mean(policies[key])))
            lost = np.array(policies[best])
            found.append(_difference(f"regret_{name}_vs_{peer}", ours, lost, best))
    worst = max(found, key=lambda figure: figure.low or 0.0)
    note = f"largest lower end of the eight intervals ({worst.name}); at most 0: no peer is better"
    assert worst.low is not None
    return [Figure("regret_vs_best_peer_max", worst.low, "1", runs=runs, note=note), *found]


def _difference(name: str, ours: Floats, theirs: Floats, peer: str) -> Figure:
    """Return the mean difference of the regret by run, with an interval of 95 %."""
    from scipy import stats

    gap = ours - theirs
    reach = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
    mean = float(gap.mean())
    note = (
        f"regret of a decision, ours {ours.mean():.4f} minus {theirs.mean():.4f} of {peer}, paired "
        "by run; below 0 ours is better"
    )
    if "drift" in name:
        note += "; ours forgets by its `memory`, the peer runs as elsewhere"
    return Figure(name, mean, "1", mean - float(reach), mean + float(reach), len(gap), note)


def _problem(name: str, runs: int, n: int) -> dict[str, Any]:
    """Draw contexts, rewards of all arms and their means, ``[runs, n, …]``."""
    rng = np.random.default_rng([_PROBLEMS.index(name), runs, n])
    if name == "banner":
        contexts = np.ones((runs, n, 1))
        means = np.repeat(rng.uniform(0.02, 0.12, (runs, 1, 10)), n, axis=1)
    else:
        contexts = np.concatenate([np.ones((runs, n, 1)), rng.uniform(-1, 1, (runs, n, 5))], axis=2)
        theta = rng.normal(0, 0.2, (runs, 8, 6))
        theta[:, :, 0] = 0.3
        later = rng.normal(0, 0.2, (runs, 8, 6))
        later[:, :, 0] = 0.3
        means = np.einsum("rnf,raf->rna", contexts, theta)
        if name == "drift":
            means[:, n // 2 :] = np.einsum("rnf,raf->rna", contexts[:, n // 2 :], later)
        means = means.clip(0.0, 1.0)
    rewards = (rng.random(means.shape) < means).astype(np.float64)
    delay = 200 if name == "delay" else 0
    return {"contexts": contexts, "rewards": rewards, "means": means, "delay": delay}


def _definition(name: str, problem: dict[str, Any]) -> BanditDefinition:
    arms, features = problem["rewards"].shape[2], problem["contexts"].shape[2] - 1
    plain: dict[str, Any] = {
        "key": name,
        "arms": [{"name": f"arm-{arm}", "value": arm} for arm in range(arms)],
        "reward": {"event": "click"},
        "min_share": 0,
    }
    if features:
        plain["policy"] = "linucb"
        plain["features"] = [{"context": f"f{at}"} for at in range(features)]
    if name == "drift":
        plain["memory"] = {"periods": 30, "discount": 0.8}
    return read_bandit(plain)


def _ours(name: str, problem: dict[str, Any], run: int) -> float:
    """Play one run with a served bandit, and return the mean regret of a decision."""
    definition = _definition(name, problem)
    contexts, rewards, means = (problem[key][run] for key in ("contexts", "rewards", "means"))
    n, rng = len(contexts), np.random.default_rng(run)
    policy, chosen, learnt = new_policy(definition), np.zeros(n, np.int64), 0
    for begin in range(0, n, _BATCH):
        ready = max(0, begin - problem["delay"])
        policy.advance(begin // max(1, n // 20))
        for at in range(learnt, ready):
            reward = float(rewards[at, chosen[at]])
            if isinstance(policy, LinearBandit):
                policy.update(int(chosen[at]), contexts[at], reward)
            else:
                policy.update(int(chosen[at]), reward)
        learnt = max(learnt, ready)
        model = BanditModel(definition, arrays_of(policy), rng)
        for at in range(begin, min(begin + _BATCH, n)):
            chosen[at] = draw(model.probabilities(contexts[at], rng).tolist(), rng)
    return float((means.max(axis=1) - means[np.arange(n), chosen]).mean())


def _peers(problems: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "problems.npz", Path(folder) / "regrets.json"
        arrays = {
            f"{name}_{key}": value for name, it in problems.items() for key, value in it.items()
        }
        np.savez(source, **arrays)
        script = _ROOT / "benchmarks" / "peers" / "bandit_regret.py"
        done = subprocess.run(
            [str(_python()), str(script), str(source), str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the peers failed: {done.stderr.strip()[-600:]}")
        found: dict[str, dict[str, list[float]]] = json.loads(target.read_text())
        return found


def _python() -> Path:
    """A Python that sees our libraries, so that all compute by the same ones, and has the peers."""
    folder = _ROOT / ".venv-peers-bandits"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([str(python), "-c", where], text=True).strip()
    seen = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(site) / "ours.pth").write_text(seen, "utf-8")
    packages = ["mabwiser==2.7.4", "vowpalwabbit==9.11.9"]
    install = [str(python), "-m", "pip", "install", "-q", "--no-deps", *packages]
    subprocess.run(install, check=True)
    return python
