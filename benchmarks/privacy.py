"""Private statistics: how fast noise is, next to the peers, and what delta it computes to."""

from fractions import Fraction

import numpy as np

from benchmarks import _privacy_ledger
from benchmarks.figures import Figure, Timing, interleave, main
from tactful_privacy import DiscreteLaplace

_CAP, _EPSILON = 5, Fraction(1)
_CELLS = 1_000_000
_LATER = "measured once the audit and erasure exist; this version has neither"

# Statistics as they are declared in practice: (cap, epsilon) of one user and one UTC day.
_DECLARED = [(1, "1"), (1, "0.1"), (5, "1"), (5, "0.5"), (5, "1/24"), (20, "1"), (50, "1")]


def run(quick: bool) -> list[Figure]:
    """Measure; the peers noise fewer cells, since a million would take them minutes a round."""
    rounds, peer_cells = (5, 5_000) if quick else (15, 20_000)
    ours, wide, opendp, diffprivlib = _noise(rounds, peer_cells)
    scaled = f"time of a million cells scaled up from {peer_cells:,}"
    worst, where = max((_delta(cap, epsilon), (cap, epsilon)) for cap, epsilon in _DECLARED)
    return [
        _figure("noise_1m_cells_s", ours, "s", "discrete Laplace, scale 5, entropy of the system"),
        _figure("noise_1m_cells_scale_1000_s", wide, "s", "the same at scale 1,000"),
        _figure(
            "noise_vs_opendp", ours.ratio(opendp), "1", f"its integer Laplace on vectors; {scaled}"
        ),
        _figure("noise_vs_diffprivlib", ours.ratio(diffprivlib), "1", f"its Geometric; {scaled}"),
        Figure(
            "delta_max",
            float(worst),
            "1",
            note=f"computed, not sampled; worst of {len(_DECLARED)}, at cap {where[0]} and"
            f" epsilon {where[1]}",
        ),
        *(
            Figure(name, None, unit, note=_LATER)
            for name, unit in [
                ("audit_eps_lower_bound", "1"),
                ("audit_planted_bugs_caught", "1"),
                ("audit_planted_bugs", "1"),
                ("audit_quick_s", "s"),
                ("release_1m_core_share", "1"),
                ("erase_one_user_s", "s"),
                ("erase_sentinel_hits", "1"),
            ]
        ),
        *_privacy_ledger.figures(quick),
    ]


def _noise(rounds: int, peer_cells: int) -> tuple[Timing, Timing, Timing, Timing]:
    """Return the seconds of a million cells: ours, ours at scale 1,000, OpenDP, diffprivlib."""
    import opendp.prelude as dp
    from diffprivlib.mechanisms import Geometric

    dp.enable_features("contrib")
    table = DiscreteLaplace(_CAP, _EPSILON)
    wide = DiscreteLaplace(1_000, _EPSILON)
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    laplace = dp.m.make_laplace(*space, scale=float(table.scale))
    geometric = Geometric(epsilon=float(_EPSILON), sensitivity=_CAP)
    counts = np.full(_CELLS, 3, dtype=np.int64)
    few = counts[:peer_cells]
    few_as_ints = few.tolist()
    timings = interleave(
        {
            "ours": lambda: counts + table.sample(len(counts)),
            "wide": lambda: counts + wide.sample(len(counts)),
            "opendp": lambda: laplace(few),
            "diffprivlib": lambda: [geometric.randomise(count) for count in few_as_ints],
        },
        rounds,
    )
    scale = _CELLS / peer_cells
    opendp, diffprivlib = (
        Timing(tuple(seconds * scale for seconds in timings[peer].seconds))
        for peer in ("opendp", "diffprivlib")
    )
    return timings["ours"], timings["wide"], opendp, diffprivlib


def _delta(cap: int, epsilon: str) -> Fraction:
    return DiscreteLaplace(cap, epsilon).delta(epsilon)


def _figure(name: str, timing: Timing, unit: str, note: str) -> Figure:
    return Figure(name, timing.median, unit, timing.low, timing.high, len(timing.seconds), note)


if __name__ == "__main__":
    main("privacy", run)
