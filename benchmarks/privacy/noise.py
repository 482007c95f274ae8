"""How fast noise is, next to its peers, and what delta its tables compute to."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from benchmarks.figures import Figure, Timing, interleave
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, WideLaplace

FIGURES = (
    ("noise_1m_cells_s", "s"),
    ("noise_1m_cells_scale_1000_s", "s"),
    ("noise_1m_cells_scale_1m_s", "s"),
    ("noise_1m_cells_gaussian_s", "s"),
    ("noise_vs_opendp", "1"),
    ("noise_vs_opendp_gaussian", "1"),
    ("noise_vs_diffprivlib", "1"),
    ("delta_max", "1"),
)

_CAP, _EPSILON = 5, Fraction(1)
_CELLS = 1_000_000

# Statistics as they are declared in practice: (cap, epsilon) of one user and one UTC day.
_DECLARED = [
    *((1, "1"), (1, "0.1"), (5, "1"), (5, "0.5"), (5, "1/24")),
    *((20, "1"), (20, "1/2"), (50, "1"), (100, "1")),
]


def noise(quick: bool) -> list[Figure]:
    """Time a million cells; the peers noise fewer, since a million would take them minutes."""
    rounds, peer_cells = (5, 5_000) if quick else (15, 20_000)
    timings = interleave(_contenders(peer_cells), rounds)
    for peer in ("opendp", "opendp gaussian", "diffprivlib"):
        seconds = timings[peer].seconds
        timings[peer] = Timing(tuple(value * _CELLS / peer_cells for value in seconds))
    scaled = f"time of a million cells scaled up from {peer_cells:,}"
    ours, gaussian = timings["laplace"], timings["gaussian"]
    return [
        _figure("noise_1m_cells_s", ours, "s", "discrete Laplace, scale 5, entropy of the system"),
        _figure("noise_1m_cells_scale_1000_s", timings["wider"], "s", "the same at scale 1,000"),
        _figure(
            "noise_1m_cells_scale_1m_s",
            timings["widest"],
            "s",
            "at scale 1,000,000, where a draw is put together from two tables",
        ),
        _figure("noise_1m_cells_gaussian_s", gaussian, "s", "discrete Gaussian, sigma 10"),
        _figure(
            "noise_vs_opendp",
            ours.ratio(timings["opendp"]),
            "1",
            f"its integer Laplace on vectors; {scaled}",
        ),
        _figure(
            "noise_vs_opendp_gaussian",
            gaussian.ratio(timings["opendp gaussian"]),
            "1",
            f"its integer Gaussian on vectors, sigma 10 as ours; {scaled}",
        ),
        _figure(
            "noise_vs_diffprivlib",
            ours.ratio(timings["diffprivlib"]),
            "1",
            f"its Geometric; {scaled}",
        ),
        _delta_max(),
    ]


def _contenders(peer_cells: int) -> dict[str, Callable[[], object]]:
    import opendp.prelude as dp
    from diffprivlib.mechanisms import Geometric

    dp.enable_features("contrib")
    tables = {
        "laplace": DiscreteLaplace(_CAP, _EPSILON),
        "wider": DiscreteLaplace(1_000, 1),
        "widest": WideLaplace(1_000, "1/1000"),
        "gaussian": DiscreteGaussian(100, "1/2"),
    }
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    laplace = dp.m.make_laplace(domain, dp.l1_distance(T="i64"), scale=float(_CAP / _EPSILON))
    gaussian = dp.m.make_gaussian(domain, dp.l2_distance(T="i64"), scale=10.0)
    geometric = Geometric(epsilon=float(_EPSILON), sensitivity=_CAP)
    counts = np.full(_CELLS, 3, dtype=np.int64)
    few = counts[:peer_cells]
    few_as_ints = few.tolist()
    ours = {
        name: lambda table=table: counts + table.sample(len(counts))
        for name, table in tables.items()
    }
    return ours | {
        "opendp": lambda: laplace(few),
        "opendp gaussian": lambda: gaussian(few),
        "diffprivlib": lambda: [geometric.randomise(count) for count in few_as_ints],
    }


def _delta_max() -> Figure:
    worst, cap, epsilon = max(
        (DiscreteLaplace(cap, epsilon).delta(epsilon), cap, epsilon) for cap, epsilon in _DECLARED
    )
    return Figure(
        "delta_max",
        float(worst),
        "1",
        note=f"computed, not sampled; worst of {len(_DECLARED)}, at cap {cap} and epsilon"
        f" {epsilon}",
    )


def _figure(name: str, timing: Timing, unit: str, note: str) -> Figure:
    return Figure(name, timing.median, unit, timing.low, timing.high, len(timing.seconds), note)
