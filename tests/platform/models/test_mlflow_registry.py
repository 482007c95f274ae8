"""The registry on a real MLflow: versions, aliases, the pointer beside the server, and back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.models.mlflow_registry import Registered, Registry
from tactful.ranking.features import RANKING_FEATURES, layout
from tactful.ranking.model import (
    Manifest,
    Pointer,
    RankingModel,
    load_model,
    read_manifest,
    read_pointer,
    save_model,
    version_directory,
)
from tactful.recall.index import build_index
from tactful.recall.tables import Interactions

DEFINITIONS = "d" * 64
EXAMPLE = np.random.default_rng(0).standard_normal((5, len(RANKING_FEATURES))).astype(np.float32)


def some_rows(seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((80, len(RANKING_FEATURES))).astype(np.float32)


def make_model(directory: Path, seed: int, name: str = "ranker") -> Path:
    """A tiny model; another seed, another model."""
    features = some_rows(seed)
    matrix = xgboost.DMatrix(features, (features[:, seed] > 0).astype(np.float32))
    forest = xgboost.train({"max_depth": 2, "nthread": 1}, matrix, 3)
    nothing = Interactions(*[np.zeros(0, np.int64)] * 3)
    index = build_index([f"i{seed}", "other"], nothing, dimensions=2)
    manifest = Manifest(
        name=name,
        features=RANKING_FEATURES,
        definitions=DEFINITIONS,
        trained_until=1_700_000_000_000 + seed,
        data_hash=f"hash-{seed}",
        rows=80,
        questions=4,
        metrics={"hr20": 0.25, "ndcg20": 0.125 * seed},
        gains={RANKING_FEATURES[seed]: 1.0},
    )
    save_model(directory, manifest, forest, index)
    return directory


@pytest.fixture
def registry(tracking_uri: str, tmp_path: Path) -> Registry:
    return Registry("ranker", tmp_path / "models")


def register(registry: Registry, directory: Path, **figures: Path) -> Registered:
    return registry.register(
        directory, parameters={"depth": 2, "task": "next"}, example=EXAMPLE, figures=figures
    )


def loaded(models: Path, version: str) -> RankingModel:
    return load_model(version_directory(models, version), definitions=DEFINITIONS)


def test_a_store_that_cannot_be_written_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    registry = Registry("ranker", tmp_path, tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(ModelError, match=r"/file/mlflow.db cannot be written .*_TRACKING_URI"):
        registry.check_store()
    with pytest.raises(ModelError, match=r"/file/mlflow.db cannot be written"):
        registry.versions()
    (tmp_path / "text.db").write_text("no database, but a text of some lines\n" * 100)
    with pytest.raises(ModelError, match="file is not a database"):
        Registry("ranker", tmp_path, tracking_uri=f"sqlite:///{tmp_path}/text.db").check_store()
    files = (f"sqlite:///{tmp_path}/new.db?timeout=5", f"sqlite:///{tmp_path}/new/mlflow.db")
    for uri in ("sqlite://", "http://mlflow.example", *files):
        Registry("ranker", tmp_path, tracking_uri=uri).check_store()


@pytest.mark.slow
def test_a_version_is_a_run(registry: Registry, tracking_uri: str, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    picture = tmp_path / "curve.png"
    picture.write_bytes(b"\x89PNG")
    made = register(registry, make_model(tmp_path / "m", 1), curve=picture)
    assert (made.name, made.version) == ("ranker", "1")
    client = mlflow.MlflowClient(tracking_uri)
    run = client.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"depth": "2", "task": "next", "rows": "80", "questions": "4"}
    assert run.data.metrics == {"hr20": 0.25, "ndcg20": 0.125}
    assert run.data.tags["data_hash"] == "hash-1"
    assert run.data.tags["definitions"] == DEFINITIONS
    assert run.data.tags["trained_until"] == "1700000000001"
    assert [a.path for a in client.list_artifacts(made.run_id, "figures")] == ["figures/curve.png"]
    schema = mlflow.artifacts.load_dict(f"runs:/{made.run_id}/feature_schema.json")
    assert [column["name"] for column in schema["columns"]] == list(RANKING_FEATURES)
    assert (schema["definitions"], schema["layout"]) == (DEFINITIONS, layout(DEFINITIONS))
    version = client.get_model_version("ranker", "1")
    assert version.run_id == made.run_id
    logged = mlflow.models.get_model_info(version.source or "")
    assert [column.name for column in logged.signature.inputs] == list(RANKING_FEATURES)
    assert Path(tmp_path / "mlruns").is_dir(), "artifacts lie beside the database"
    # The model in MLflow scores as the one that serves.
    theirs = mlflow.pyfunc.load_model("models:/ranker/1")
    rows = some_rows(9)
    rows[::3, ::2] = np.nan
    ours = loaded(tmp_path / "models", "1").score(rows)
    for kind in (np.float32, np.float64):
        frame = pd.DataFrame(rows.astype(kind), columns=list(RANKING_FEATURES))
        assert np.array_equal(theirs.predict(frame), ours)
    assert theirs.input_example.shape == EXAMPLE.shape


@pytest.mark.slow
def test_promotion_moves_the_aliases_and_the_pointer(registry: Registry, tmp_path: Path) -> None:
    """Registering completes the manifest and keeps a copy; promoting makes it serve."""
    models = tmp_path / "models"
    assert registry.versions() == []
    with pytest.raises(ModelError, match="no version '1'"):
        registry.promote("1")
    for number in (1, 2, 3):
        made = register(registry, make_model(tmp_path / f"m{number}", number))
        assert made.version == str(number)
        given = read_manifest(tmp_path / f"m{number}")
        kept = read_manifest(version_directory(models, made.version))
        assert kept == msgspec.structs.replace(given, version=made.version, run_id=made.run_id)
    assert sorted(path.name for path in (models / "versions").iterdir()) == ["1", "2", "3"]
    assert read_pointer(models) is None, "nothing serves before it is promoted"

    def aliases() -> dict[str, str]:
        return {it["version"]: it["aliases"] for it in registry.versions()}

    assert aliases() == {"3": "challenger", "2": "", "1": ""}
    for version, previous, expected in (
        ("1", "", {"3": "challenger", "2": "", "1": "champion"}),
        ("3", "1", {"3": "champion", "2": "", "1": "previous"}),
        ("1", "3", {"3": "previous", "2": "", "1": "champion"}),
        ("1", "3", {"3": "previous", "2": "", "1": "champion"}),  # again: the way back stays
    ):
        registry.promote(version)
        assert read_pointer(models) == Pointer(version=version, previous=previous)
        assert aliases() == expected
    assert [it["version"] for it in registry.versions()] == ["3", "2", "1"], "newest first"


@pytest.mark.slow
def test_what_is_pulled_equals_what_was_registered(registry: Registry, tmp_path: Path) -> None:
    made = register(registry, make_model(tmp_path / "m", 3))
    models = tmp_path / "models"
    before, rows = loaded(models, "1"), some_rows(4)
    scores = before.score(rows)
    (models / "versions").rename(tmp_path / "gone")
    with pytest.raises(ModelError, match="`tactful models pull 1`"):
        registry.promote("1")
    directory = registry.pull("1")
    assert directory == version_directory(models, "1")
    again = loaded(models, "1")
    assert again.manifest == before.manifest
    assert again.manifest.run_id == made.run_id
    assert np.array_equal(again.score(rows), scores)
    assert again.index.item_ids == before.index.item_ids
    assert np.array_equal(again.index.vectors, before.index.vectors)
    registry.promote("1")
    assert read_pointer(models) == Pointer(version="1")


@pytest.mark.slow
def test_a_damaged_copy_is_replaced_by_pulling(registry: Registry, tmp_path: Path) -> None:
    register(registry, make_model(tmp_path / "m", 1))
    models = tmp_path / "models"
    place = version_directory(models, "1")
    for damaged in ("model.ubj", "manifest.json"):
        (place / damaged).write_bytes(b"rubbish")
        (place / "left-over").touch()
        registry.pull("1")
        assert loaded(models, "1").manifest.version == "1"
        assert not (place / "left-over").exists()
    (place / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"manifest\.json"):
        registry.promote("1")
    assert read_pointer(models) is None
    assert registry.versions()[0]["aliases"] == "challenger"


def test_unknown_versions_change_nothing(registry: Registry, tmp_path: Path) -> None:
    register(registry, make_model(tmp_path / "m", 1))
    registry.promote("1")
    for version in ("9", "champion", "", "../../etc"):
        for act in (registry.promote, registry.pull):
            with pytest.raises(ModelError, match="ranker has no version") as caught:
                act(version)
            assert repr(version) in str(caught.value)
            assert "sqlite:///" in str(caught.value)
        assert read_pointer(tmp_path / "models") == Pointer(version="1")
        assert [p.name for p in (tmp_path / "models" / "versions").iterdir()] == ["1"]


@pytest.mark.slow
def test_two_names_do_not_overwrite_each_other(tracking_uri: str, tmp_path: Path) -> None:
    """Versions are numbered by name, so another model's version 1 is not this one's."""
    one, other = (Registry(name, tmp_path / "models") for name in ("ranker", "other"))
    register(one, make_model(tmp_path / "m1", 1))
    one.promote("1")
    before = loaded(tmp_path / "models", "1").manifest
    make_model(tmp_path / "m2", 2, "other")
    for act in (
        lambda: register(other, tmp_path / "m2"),
        lambda: other.promote("1"),
        lambda: other.pull("1"),
    ):
        with pytest.raises(ModelError, match=r"holds versions of ranker.*storage\.models"):
            act()
    assert other.versions() == []
    assert loaded(tmp_path / "models", "1").manifest == before


def test_default_store(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the working directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry = Registry("ranker", tmp_path / "models")
    register(registry, make_model(tmp_path / "m", 1))
    assert len(Registry("ranker", tmp_path / "m", tracking_uri=tracking_uri).versions()) == 1


@pytest.mark.slow
def test_knowing_a_registry_costs_no_import_of_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tactful.models.mlflow_registry import Registry\n"
        "Registry('ranker', Path('models'))\n"
        "print('mlflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, text=True, cwd=tmp_path)
    assert printed.strip() == "False"


@pytest.mark.slow
def test_a_reader_never_finds_a_version_half_there(registry: Registry, tmp_path: Path) -> None:
    """While a version is pulled over itself, a server that starts finds all of it or none."""
    register(registry, make_model(tmp_path / "m", 1))
    stop = threading.Event()
    wrong: list[str] = []
    reads = 0

    def look() -> None:
        nonlocal reads
        while not stop.is_set():
            place = version_directory(tmp_path / "models", "1")
            try:
                encoded = (place / "manifest.json").read_bytes()
                manifest = msgspec.json.decode(encoded, type=Manifest)
                reads += 1
                if manifest.version != "1":
                    wrong.append(f"version {manifest.version!r}")
            except FileNotFoundError:
                continue
            except msgspec.DecodeError as error:
                wrong.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(15):
        registry.pull("1")
    stop.set()
    thread.join()
    assert reads
    assert not wrong


@pytest.mark.slow
def test_a_version_that_is_forgotten_leaves_no_file(registry: Registry, tmp_path: Path) -> None:
    """With its run, its files in MLflow and the copy that serves; others stay as they are."""
    for number in (1, 2):
        register(registry, make_model(tmp_path / f"m{number}", number))
    aliases = {version: aliases for version, _, aliases in registry.ages()}
    assert aliases == {"1": "", "2": "challenger"}
    assert all(abs(at / 1000 - time.time()) < 3_600 for _, at, _ in registry.ages())

    def files() -> int:
        return len(list((tmp_path / "mlruns").rglob("*.ubj")))

    before = files()
    registry.forget("1")
    assert 0 < files() == before / 2
    assert [told["version"] for told in registry.versions()] == ["2"]
    assert not version_directory(tmp_path / "models", "1").exists()
    shutil.rmtree(version_directory(tmp_path / "models", "2"))
    assert registry.pull("2").is_dir(), "the others are whole"
    with pytest.raises(ModelError, match="no version '1'"):
        registry.forget("1")
