"""A model on disk: the same scores after loading, and refusal of what does not fit."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import (
    Manifest,
    Pointer,
    gains,
    load_model,
    read_pointer,
    save_model,
    version_directory,
    write_pointer,
)
from tactful.recall.index import build_index, empty_index
from tactful.recall.tables import Interactions

DEFINITIONS = "f" * 64
MANIFEST = Manifest(
    name="ranker",
    features=RANKING_FEATURES,
    definitions=DEFINITIONS,
    trained_until=1,
    data_hash="h",
    rows=200,
    questions=10,
    metrics={"hr20": 0.5},
    gains={},
)


def some_features(seed: int, rows: int = 200) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((rows, len(RANKING_FEATURES))).astype(np.float32)
    values[generator.random(values.shape) < 0.1] = np.nan
    return values


@pytest.fixture(scope="module")
def forest() -> xgboost.Booster:
    features = some_features(0)
    labels = np.nan_to_num(features[:, 3] + 0.2 * features[:, 5]) > 0
    matrix = xgboost.DMatrix(features, labels.astype(np.float32), group=[20] * 10)
    return xgboost.train({"objective": "rank:ndcg", "max_depth": 3, "nthread": 1}, matrix, 8)


@pytest.fixture
def model(tmp_path: Path, forest: xgboost.Booster) -> Path:
    visits = Interactions(np.repeat(np.arange(20), 3), np.tile([0, 1, 2], 20), np.arange(60))
    index = build_index(["a", "b", "c"], visits, dimensions=2)
    directory = tmp_path / "model"
    save_model(directory, MANIFEST, forest, index)
    return directory


def test_a_loaded_model_scores_as_the_saved_one(model: Path, forest: xgboost.Booster) -> None:
    features = some_features(1)
    loaded = load_model(model, definitions=DEFINITIONS)
    assert loaded.manifest == MANIFEST
    assert loaded.index.item_ids == ("a", "b", "c")
    margins = forest.inplace_predict(features, predict_type="margin")
    assert np.array_equal(loaded.score(features), margins)
    one_by_one = np.concatenate([loaded.score(features[n : n + 1]) for n in range(20)])
    assert np.array_equal(one_by_one, margins[:20]), "a score does not depend on its list"


def test_scores_are_the_same_in_every_thread(model: Path) -> None:
    loaded = load_model(model, definitions=DEFINITIONS)
    features = some_features(2)
    wanted = loaded.score(features)
    wrong: list[int] = []

    def check() -> None:
        for number in range(50):
            if not np.array_equal(loaded.score(features), wanted):
                wrong.append(number)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("changes", "definitions", "said"),
    [
        ({"features": (*RANKING_FEATURES, "moon")}, DEFINITIONS, r"has unknown \['moon'\]"),
        ({"features": ()}, DEFINITIONS, "features are not the server's"),
        ({"features": 2 * RANKING_FEATURES[:9]}, DEFINITIONS, "the order differs"),
        ({"features": RANKING_FEATURES[::-1]}, DEFINITIONS, "the order differs"),
        ({}, "abc", r"trained on feature definitions ffffffffffff, .* abc"),
        ({"format": 2}, DEFINITIONS, "format 2, this version reads 1"),
    ],
)
def test_other_models(model: Path, changes: dict[str, object], definitions: str, said: str) -> None:
    manifest = msgspec.structs.replace(MANIFEST, **changes)
    (model / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ModelError, match=said) as caught:
        load_model(model, definitions=definitions)
    if "features" in changes:
        assert str(model) in str(caught.value)
        assert "tactful train" in str(caught.value)


def test_a_model_of_an_earlier_version_scores_its_own_columns(tmp_path: Path) -> None:
    """Columns that came later are left out."""
    generator = np.random.default_rng(3)
    columns = sorted(generator.permutation(len(RANKING_FEATURES))[:9].tolist())
    names = tuple(RANKING_FEATURES[column] for column in columns)
    features = np.asfortranarray(
        generator.standard_normal((200, len(RANKING_FEATURES))).astype(np.float32)
    )
    own = features[:, columns]
    forest = xgboost.train(
        {"max_depth": 3, "nthread": 1}, xgboost.DMatrix(own, own[:, 0] * own[:, 1]), 12
    )
    manifest = msgspec.structs.replace(MANIFEST, features=names)
    save_model(tmp_path / "old", manifest, forest, empty_index())
    loaded = load_model(tmp_path / "old", definitions=DEFINITIONS)
    wanted = forest.inplace_predict(own, predict_type="margin")
    assert np.array_equal(loaded.score(features), wanted)
    (tmp_path / "old" / "forest.npz").unlink()
    (tmp_path / "old" / "manifest.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(manifest, features=names[:8]))
    )
    with pytest.raises(ModelError, match="takes 9 columns where the manifest has 8"):
        load_model(tmp_path / "old", definitions=DEFINITIONS)


def test_the_trees_correct_a_column(tmp_path: Path, forest: xgboost.Booster) -> None:
    """The margin is the logarithm of the column, at least of a small share, and the trees'."""
    features = some_features(4)
    column = features[:, RANKING_FEATURES.index("blend")]
    manifest = msgspec.structs.replace(MANIFEST, start="blend")
    save_model(tmp_path / "model", manifest, forest, empty_index())
    loaded = load_model(tmp_path / "model", definitions=DEFINITIONS)
    trees = forest.inplace_predict(features, predict_type="margin")
    shares = [max(value, 0.0) if value == value else 0.0 for value in column.tolist()]
    for margin, tree, share in zip(loaded.score(features), trees, shares, strict=True):
        assert margin == pytest.approx(tree + math.log(share + 1e-4), abs=1e-4)
    one_by_one = np.concatenate([loaded.score(features[n : n + 1]) for n in range(20)])
    assert np.array_equal(one_by_one, loaded.score(features)[:20])
    (tmp_path / "model" / "manifest.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(manifest, start="gone"))
    )
    with pytest.raises(ModelError, match="starts from 'gone', which is no feature of it"):
        load_model(tmp_path / "model", definitions=DEFINITIONS)


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        *(
            ("manifest.json", content, r"manifest\.json: cannot be read as a model manifest")
            for content in (b"", b"{}", b"[1]", b"\xff\xfe", b'{"name": 3}')
        ),
        *(
            ("model.ubj", share, r"model\.ubj: not an XGBoost model")
            for share in (0.0, 0.01, 0.3, 0.7, 0.999)
        ),
        ("index/vectors/vectors.npy", 0.999, "vectors.npy: damaged"),
        ("manifest.json", None, "manifest.json"),
        ("model.ubj", None, "model.ubj"),
        ("index/index.json", None, "index"),
    ],
)
def test_damaged_parts(model: Path, part: str, content: bytes | float | None, said: str) -> None:
    """A part is overwritten, cut to a share of it, or missing."""
    path = model / part
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        damaged = content if isinstance(content, bytes) else whole[: int(content * len(whole))]
        path.write_bytes(damaged)
    with pytest.raises(ModelError, match=said):
        load_model(model, definitions=DEFINITIONS)


def test_a_forest_of_other_columns_is_refused(model: Path) -> None:
    few = xgboost.DMatrix(some_features(0)[:, :4], np.arange(200) % 2)
    xgboost.train({"nthread": 1}, few, 2).save_model(model / "model.ubj")
    with pytest.raises(ModelError, match=r"model\.ubj.*4"):
        load_model(model, definitions=DEFINITIONS)
    with pytest.raises(ModelError):
        load_model(model / "nowhere", definitions=DEFINITIONS)


def test_gains_are_by_name_and_the_largest_first(forest: xgboost.Booster) -> None:
    found = gains(forest, RANKING_FEATURES)
    assert next(iter(found)) == RANKING_FEATURES[3]
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_saving_again_replaces_every_part(model: Path, forest: xgboost.Booster) -> None:
    index = build_index(["z"], Interactions(*[np.zeros(0, np.int64)] * 3))
    save_model(model, msgspec.structs.replace(MANIFEST, rows=7), forest, index)
    loaded = load_model(model, definitions=DEFINITIONS)
    assert (loaded.manifest.rows, list(loaded.index.item_ids)) == (7, ["z"])


def test_the_pointer_is_what_was_written(tmp_path: Path) -> None:
    models = tmp_path / "new" / "models"
    assert read_pointer(models) is None
    for pointer in (Pointer(version="1"), Pointer(version="2", previous="1")):
        write_pointer(models, pointer)
        assert read_pointer(models) == pointer
    assert [path.name for path in models.iterdir()] == ["champion.json"], "no scratch file stays"
    assert version_directory(models, "2") == models / "versions" / "2"
    (models / "champion.json").write_bytes(b"{")
    with pytest.raises(ModelError, match=r"champion\.json: not a champion pointer"):
        read_pointer(models)


def test_a_reader_of_the_pointer_sees_one_or_the_other(tmp_path: Path) -> None:
    both = [Pointer(version=letter * 2000) for letter in "ab"]
    write_pointer(tmp_path, both[0])
    stop = threading.Event()
    seen: list[Pointer | None] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(read_pointer(tmp_path))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(40):
        write_pointer(tmp_path, both[number % 2])
    stop.set()
    thread.join()
    assert seen
    assert all(pointer in both for pointer in seen)


def test_files_may_go_while_the_model_serves(model: Path) -> None:
    """The index is mapped, not read: its pages must outlive the directory."""
    loaded = load_model(model, definitions=DEFINITIONS)
    before = np.array(loaded.index.vectors)
    shutil.rmtree(model)
    assert np.array_equal(loaded.index.vectors, before)
    assert len(loaded.score(some_features(3, 5))) == 5
