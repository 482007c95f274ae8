"""The kernel against XGBoost: the same bits, on every forest that it takes and on any value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful.errors import ModelError, UnsupportedForest
from tactful.kernels.forest import BLOCK, Kernel, load_kernel
from tactful.ranking.forest import BAND, BinnedForest, bin_forest

COLUMNS = 5
TINY = np.finfo(np.float32).smallest_subnormal
LARGE = np.finfo(np.float32).max
ODD = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 100 * TINY, LARGE, -LARGE, 1.0], np.float32
)
OBJECTIVES = ("rank:ndcg", "rank:pairwise", "binary:logistic", "reg:logistic")
SIZES = (0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 1_000)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return load_kernel()


@pytest.fixture(scope="module")
def made(kernel: Kernel) -> BinnedForest:
    return bin_forest(some_forest(np.random.default_rng(8)), kernel)


@pytest.fixture
def binned(made: BinnedForest) -> BinnedForest:
    """A forest that a test may change."""
    return deepcopy(made)


def some_rows(generator: np.random.Generator, count: int, columns: int = COLUMNS) -> Any:
    """Values of several kinds: few, many, huge, denormal, and missing ones."""
    rows = generator.standard_normal((count, columns)).astype(np.float32)
    scale = generator.choice([1.0, 1e-40, 1e30, 1e-3], columns)
    rows = (rows * scale).astype(np.float32)
    rows[:, 0] = generator.integers(-2, 3, count)
    odd = generator.random(rows.shape) < generator.choice([0.0, 0.1, 0.5])
    rows[odd] = generator.choice(ODD[np.isnan(ODD) | (np.abs(ODD) < 2)], odd.sum())
    return rows


def some_forest(
    generator: np.random.Generator, *, rows: int = 300, columns: int = COLUMNS, **parameters: Any
) -> xgboost.Booster:
    features = some_rows(generator, rows, columns)
    clean = np.nan_to_num(features, posinf=0, neginf=0)
    labels = clean[:, 0] + np.sign(clean[:, 1 % columns]) + generator.standard_normal(rows) > 0.3
    ranked = parameters.get("objective", "").startswith("rank:")
    matrix = xgboost.DMatrix(
        features, labels.astype(np.float32), group=[rows // 10] * 10 if ranked else None
    )
    rounds = int(parameters.pop("rounds", 5))
    return xgboost.train({"nthread": 1, **parameters}, matrix, rounds)


def trees_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = document["learner"]["gradient_booster"]["model"]["trees"]
    return trees


def edited(forest: xgboost.Booster, change: Callable[[dict[str, Any]], None]) -> xgboost.Booster:
    """The forest with each of its trees changed, as XGBoost reads it back."""
    document = json.loads(bytes(forest.save_raw("json")))
    for tree in trees_of(document):
        change(tree)
    found = xgboost.Booster({"nthread": 1})
    found.load_model(bytearray(json.dumps(document).encode()))
    return found


def thresholds(forest: xgboost.Booster) -> NDArray[np.float32]:
    trees = trees_of(json.loads(bytes(forest.save_raw("json"))))
    return np.concatenate([[0.0], *(tree["split_conditions"] for tree in trees)]).astype(np.float32)


def questions(
    generator: np.random.Generator, forest: xgboost.Booster, count: int, columns: int = COLUMNS
) -> NDArray[np.float32]:
    """Rows that hit the thresholds, miss them by one bit, or have an odd value."""
    exact = thresholds(forest)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(exact, np.float32(end)) for end in (-np.inf, np.inf)]
    values = np.concatenate([exact, *beside])
    rows: NDArray[np.float32] = generator.choice(values, (count, columns))
    odd = generator.random(rows.shape) < 0.3
    rows[odd] = generator.choice(ODD, odd.sum())
    return rows


def assert_same_bits(
    forest: xgboost.Booster, kernel: Kernel, rows: NDArray[np.float32]
) -> BinnedForest:
    binned = bin_forest(forest, kernel)
    for each in (rows, np.asfortranarray(rows)):
        mine = binned.margins(each, kernel)
        theirs = forest.inplace_predict(each, predict_type="margin")
        assert mine.view(np.int32).tolist() == theirs.view(np.int32).tolist()
    return binned


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    options=st.fixed_dictionaries(
        {
            "objective": st.sampled_from(OBJECTIVES),
            "max_depth": st.integers(1, 8),
            "tree_method": st.sampled_from(["hist", "exact", "approx"]),
            "num_parallel_tree": st.sampled_from([1, 1, 3]),
            "min_child_weight": st.sampled_from([0.0, 5.0, 1e9]),  # the last leaves a single leaf
        }
    ),
    bins=st.sampled_from([2, 16, 64, 256]),
    base=st.sampled_from([{}, {"base_score": 0.5}, {"base_score": 0.07}, {"base_score": 0.93}]),
    size=st.sampled_from(SIZES),
)
@example(
    seed=0,  # a margin of -0
    options={"objective": "binary:logistic", "max_depth": 5, "tree_method": "hist"}
    | {"num_parallel_tree": 1, "min_child_weight": 0.0},
    bins=2,
    base={"base_score": 0.5},
    size=0,
)
def test_margins_have_the_bits_of_xgboost(
    kernel: Kernel, seed: int, options: dict[str, Any], bins: int, base: dict[str, Any], size: int
) -> None:
    generator = np.random.default_rng(seed)
    options |= {"subsample": 0.8 if options["num_parallel_tree"] > 1 else 1.0, **base}
    if options["tree_method"] != "exact":
        options["max_bin"] = bins
    forest = some_forest(generator, **options)
    assert_same_bits(forest, kernel, questions(generator, forest, size))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 8), size=st.sampled_from(SIZES))
def test_margins_of_edited_trees(kernel: Kernel, seed: int, depth: int, size: int) -> None:
    """Thresholds, ways of missing values and leaves that no training would come to."""
    generator = np.random.default_rng(seed)
    pool = np.concatenate([ODD[~np.isnan(ODD)], generator.standard_normal(9).astype(np.float32)])

    def change(tree: dict[str, Any]) -> None:
        inner = np.array(tree["left_children"]) >= 0
        of_inner = generator.choice(pool, len(inner))
        of_leaves = generator.choice(pool[np.abs(pool) < 10], len(inner))
        tree["split_conditions"] = np.where(inner, of_inner, of_leaves).astype(float).tolist()
        tree["default_left"] = generator.integers(0, 2, len(inner)).tolist()

    forest = edited(some_forest(generator, max_depth=depth), change)
    assert_same_bits(forest, kernel, questions(generator, forest, size))


def test_a_column_may_have_more_thresholds_than_a_byte_counts(kernel: Kernel) -> None:
    generator = np.random.default_rng(1)
    shape = {"rows": 3_000, "columns": 2, "max_depth": 8, "rounds": 60}
    forest = some_forest(generator, tree_method="exact", **shape)
    binned = assert_same_bits(forest, kernel, questions(generator, forest, 1_000, 2))
    assert max(np.bincount(binned.band_column)) > 2, "several bands of one column"
    assert np.diff(binned.band_start).max() == BAND


def test_a_forest_of_300_trees_on_1000_rows(kernel: Kernel) -> None:
    """Sums of many float32 depend on their order: it has to be XGBoost's."""
    generator = np.random.default_rng(2)
    forest = some_forest(generator, rows=2_000, columns=31, max_depth=6, rounds=300, max_bin=64)
    binned = assert_same_bits(forest, kernel, questions(generator, forest, 1_000, 31))
    backwards = BinnedForest(
        **{**vars(binned), "depth": binned.depth[::-1].copy()}
        | {
            name: np.concatenate(np.split(getattr(binned, name), getattr(binned, of)[1:-1])[::-1])
            for name, of in zip(
                ("plane", "cut", "leaves"), ("node_start", "node_start", "leaf_start"), strict=True
            )
        }
        | {
            name: np.cumsum([0, *np.diff(getattr(binned, name))[::-1]])
            for name in ("node_start", "leaf_start")
        }
    )
    rows = questions(generator, forest, 1_000, 31)
    assert (binned.margins(rows, kernel) != backwards.margins(rows, kernel)).any(), (
        "the data would show another order"
    )


def test_rows_of_another_width_are_refused(kernel: Kernel) -> None:
    binned = bin_forest(some_forest(np.random.default_rng(3)), kernel)
    for wrong in (np.zeros((3, COLUMNS + 1), np.float32), np.zeros(COLUMNS, np.float32)):
        with pytest.raises(ValueError, match=r"the forest takes \(n, 5\)"):
            binned.margins(wrong, kernel)


def test_rows_may_be_read_only_strided_or_of_float64(kernel: Kernel) -> None:
    generator = np.random.default_rng(4)
    binned = bin_forest(some_forest(generator), kernel)
    rows = some_rows(generator, 600)
    wanted = binned.margins(rows, kernel).tobytes()
    frozen = np.asfortranarray(rows)
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"-" + rows.tobytes(), np.float32, offset=1).reshape(rows.shape)
    for same in (frozen, np.repeat(rows, 2, axis=0)[::2], rows.astype(np.float64), unaligned):
        assert binned.margins(same, kernel).tobytes() == wanted


# What is left to XGBoost


def unsupported() -> dict[str, Callable[[], xgboost.Booster]]:
    generator = np.random.default_rng(5)

    def categorical() -> xgboost.Booster:
        rows = generator.integers(0, 4, (200, 1)).astype(np.float32)
        matrix = xgboost.DMatrix(
            rows, (rows[:, 0] == 2), feature_types=["c"], enable_categorical=True
        )
        return xgboost.train({"max_cat_to_onehot": 1, "nthread": 1}, matrix, 2)

    def classes() -> xgboost.Booster:
        matrix = xgboost.DMatrix(some_rows(generator, 90), np.arange(90) % 3)
        return xgboost.train({"objective": "multi:softprob", "num_class": 3}, matrix, 2)

    def targets() -> xgboost.Booster:
        matrix = xgboost.DMatrix(some_rows(generator, 90), generator.random((90, 2)))
        return xgboost.train({"multi_strategy": "multi_output_tree"}, matrix, 2)

    return {
        "deeper than 8": lambda: some_forest(
            generator, rows=3_000, columns=2, max_depth=12, min_child_weight=0, rounds=2
        ),
        "booster is dart": lambda: some_forest(generator, booster="dart", rate_drop=0.5),
        "booster is gblinear": lambda: some_forest(generator, booster="gblinear"),
        "by category": categorical,
        "several outputs": classes,
        "several outputs ": targets,
        "not a number": lambda: edited(
            some_forest(generator),
            lambda tree: tree["split_conditions"].__setitem__(0, float("nan")),
        ),
    }


@pytest.mark.parametrize("reason", unsupported())
def test_what_is_not_covered_is_refused_by_name(kernel: Kernel, reason: str) -> None:
    with pytest.raises(UnsupportedForest, match=reason.strip()):
        bin_forest(unsupported()[reason](), kernel)


def faults(kernel: Kernel) -> dict[str, Kernel]:
    """Kernels that are wrong in one way each. The arguments are those of the real one."""

    def by_one_bit(*arguments: Any) -> None:
        kernel(*arguments)
        arguments[-1][:1] = np.nextafter(arguments[-1][:1], np.float32(np.inf))

    def with_change(place: int, change: Callable[[Any], Any]) -> Kernel:
        return lambda *given: kernel(*given[:place], change(given[place]), *given[place + 1 :])

    def larger(value: Any) -> Any:
        return np.nextafter(value, np.float32(np.inf))

    return {
        "by_one_bit": by_one_bit,
        "missing_goes_left": with_change(7, lambda plane: plane | np.uint16(1)),
        "equal_goes_left": with_change(4, larger),
        "base_in_float64": with_change(1, larger),
    }


@pytest.mark.parametrize("fault", faults(lambda: None))
def test_the_proof_finds_a_kernel_that_is_wrong(kernel: Kernel, fault: str) -> None:
    forest = some_forest(np.random.default_rng(7), max_depth=4, rounds=20)
    bin_forest(forest, kernel)
    with pytest.raises(UnsupportedForest, match="margins differ"):
        bin_forest(forest, faults(kernel)[fault])


# Files


def test_a_saved_forest_is_the_same(tmp_path: Path, kernel: Kernel, binned: BinnedForest) -> None:
    binned.save(tmp_path / "forest.npz", source="abc")
    loaded = BinnedForest.load(tmp_path / "forest.npz", source="abc")
    assert loaded is not None
    rows = some_rows(np.random.default_rng(9), 300)
    assert loaded.margins(rows, kernel).tobytes() == binned.margins(rows, kernel).tobytes()
    assert BinnedForest.load(tmp_path / "forest.npz", source="abd") is None
    assert BinnedForest.load(tmp_path / "nothing.npz", source="abc") is None


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_file_never_reaches_the_kernel(
    tmp_path_factory: pytest.TempPathFactory, kernel: Kernel, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "forest.npz"
    binned = bin_forest(some_forest(np.random.default_rng(8), rounds=1, max_depth=2), kernel)
    binned.save(path, source="abc")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = BinnedForest.load(path, source="abc")
    except ModelError:
        return
    if loaded is not None:
        rows = some_rows(np.random.default_rng(9), 20)
        assert loaded.margins(rows, kernel).tobytes() == binned.margins(rows, kernel).tobytes()


@pytest.mark.parametrize(
    ("share", "place", "value"),
    [
        *((share, 0, 0) for share in (0.0, 0.1, 0.5, 0.95, 0.999)),
        *((1, 8, 1), (1, 10, 99), (1, 10, 8)),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, binned: BinnedForest, share: float, place: int, value: int
) -> None:
    """Files cut short, and zip entries marked as encrypted, unknown or deflated."""
    path = tmp_path / "forest.npz"
    binned.save(path, source="abc")
    content = bytearray(path.read_bytes())
    if place:
        content[content.rindex(b"PK\x01\x02") + place] = value
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"forest\.npz: not a binned forest"):
        BinnedForest.load(path, source="abc")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("band_column", COLUMNS), ("band_column", -1), ("band_start", 10_000)),
        *(("depth", 9), ("depth", -1), ("node_start", 1), ("plane", 60_000)),
        *(("cut", BAND), ("leaf_start", 3)),
    ],
)
def test_arrays_that_misfit(tmp_path: Path, binned: BinnedForest, name: str, value: int) -> None:
    getattr(binned, name)[0] = value
    binned.save(tmp_path / "forest.npz", source="abc")
    with pytest.raises(ModelError, match="do not fit together"):
        BinnedForest.load(tmp_path / "forest.npz", source="abc")


# Compiling


def test_a_call_never_compiles(kernel: Kernel, binned: BinnedForest) -> None:
    arguments = [getattr(binned, name) for name in list(vars(binned))[1:]]
    with pytest.raises(TypeError):
        kernel(np.zeros((COLUMNS, 3), np.float64), *arguments, np.empty(3, np.float32))


@pytest.mark.slow
def test_the_code_is_kept_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    fresh = load_kernel.__wrapped__
    first: Any = fresh()
    second: Any = fresh()
    for made, missed in ((first, 1), (second, 0)):
        assert sum(made.stats.cache_misses.values()) == missed
        assert sum(made.stats.cache_hits.values()) == 1 - missed
    (kept,) = (tmp_path / "tactful").iterdir()
    kept.write_bytes(kept.read_bytes()[:1_000])
    third = fresh()
    assert "the kernel is compiled anew" in caplog.text
    rows = some_rows(np.random.default_rng(9), 20)
    forest = some_forest(np.random.default_rng(8))
    assert_same_bits(forest, third, rows)


@pytest.mark.slow
def test_no_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    kernel = load_kernel.__wrapped__()
    assert "compiled at each start" in caplog.text
    assert_same_bits(some_forest(np.random.default_rng(8)), kernel, ODD[:, None].repeat(5, 1))


@pytest.mark.slow
def test_any_processor_gives_the_same_bits_without_xgboost(tmp_path: Path, kernel: Kernel) -> None:
    generator = np.random.default_rng(12)
    forest = some_forest(generator, max_depth=6, rounds=30)
    binned = bin_forest(forest, kernel)
    binned.save(tmp_path / "forest.npz", source="abc")
    rows = questions(generator, forest, 1_000)
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from tactful.ranking.forest import BinnedForest\n"
        "from tactful.kernels import forest\n"
        "binned = BinnedForest.load(Path('forest.npz'), source='abc')\n"
        "rows, kernel = numpy.load('rows.npy'), forest.load_kernel()\n"
        "assert not forest._TABLES\n"
        "numpy.save('margins.npy', binned.margins(rows, kernel))\n"
        "assert not {'xgboost', 'pandas', 'sklearn', 'torch', 'mlflow'} & {*sys.modules}"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert np.load(tmp_path / "margins.npy").tobytes() == binned.margins(rows, kernel).tobytes()
