"""Encoding of the items of a server and of a training, by the command that users start."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from tests.platform.models.test_schedule import stand_in
from tests.platform.shop import CATEGORIES, entries, make_shop, write_log
from tests.platform.support import Live, build, wait_until
from tests.platform.understanding.tiny_model import write_model
from tests.platform.understanding.tiny_picture_model import plain_picture

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.errors import ConfigError, ModelError
from tactful.maintenance.doctor import examine
from tactful.models.encode_catalogue import CatalogueEncoder, Described, described, encode_catalogue
from tactful.pipeline.applier import LogApplier
from tactful.ranking.model import version_directory
from tactful.recall.index import RecallIndex
from tactful.server.platform import Platform
from tactful.understanding.item_vectors import stored_vectors
from tactful.understanding.picture_store import PictureStore, picture_path, reference_of
from tactful.understanding.text_encoders import OnnxTextEncoder
from tactful.util.jobs import jobs_of
from tactful_streaming.contract.log_entries import Entry, Item


def item(number: int, title: str | None) -> Item:
    return Item(item_id=f"i{number}", timestamp=0, title=title)


def test_items_are_encoded_when_their_words_change(tmp_path: Path, settings: Settings) -> None:
    """Each call of the command gets the texts of all items, by its standard input."""
    feed: list[list[Item]] = []
    python = stand_in(
        tmp_path, f"cat >{tmp_path}/given; echo $@ >>{tmp_path}/calls; . {tmp_path}/end"
    )
    end, given, calls = (tmp_path / name for name in ("end", "given", "calls"))
    now = [0.0]
    encoder = CatalogueEncoder(
        settings, lambda: feed.pop() if feed else [], python=python, monotonic=lambda: now[0]
    )

    def work(*changed: Item) -> None:
        feed.append([*changed])
        asyncio.run(encoder.run())

    work()
    assert not calls.exists() and (encoder.waiting, encoder.problem) == (0, "")
    end.write_text("echo tactful: no such model >&2; exit 2")
    for waiting in (2, 3):
        changed = [item(0, "Mug"), item(1, "杯子"), item(2, None), item(3, "Cup")][: waiting + 1]
        with pytest.raises(ModelError, match="no such model"):
            work(*changed)
        assert (encoder.waiting, encoder.problem) == (waiting, "tactful: no such model")
    end.write_text("exit 9")
    with pytest.raises(ModelError, match="ended with 9"):
        work()
    end.write_text("exit 0")
    work()
    assert (encoder.waiting, encoder.problem) == (0, "")
    texts = [json.loads(line)["text"] for line in given.read_text().splitlines()]
    assert texts == ["Mug", "杯子", "", "Cup"]
    done = calls.read_text().splitlines()
    assert len(done) == 4 and {*done} == {"-m tactful items encode --items - --prune --json"}
    work(item(0, "Mug"))  # no word changed
    assert len(calls.read_text().splitlines()) == 4
    work(item(0, "Jug"))
    assert len(calls.read_text().splitlines()) == 5 and '"Jug"' in given.read_text()
    for seconds, number in ((86_399.0, 5), (86_400.0, 6), (86_401.0, 6)):
        now[0] = seconds  # addresses that were refused are due after a day
        work()
        assert len(calls.read_text().splitlines()) == number


def test_nothing_is_encoded_before_the_log_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that the catalogue so far does not name would be deleted."""
    recovering = [True]
    refreshed: list[int] = []
    ready: list[bool] = []
    monkeypatch.setattr(LogApplier, "recovering", property(lambda _: bool(recovering)))
    platform = Platform.open(with_encoder(settings, "none", every_s=0.01), build)

    async def run(_: CatalogueEncoder) -> None:
        ready.append(platform.recommendations.ready)

    monkeypatch.setattr(CatalogueEncoder, "run", run)
    monkeypatch.setattr(platform.consents, "refresh", lambda: refreshed.append(1))
    with Live(platform, ready=False):
        wait_until(lambda: len(refreshed) > 1)
        recovering.clear()
        wait_until(lambda: bool(ready))
    assert all(ready)


def kept_after(data: Path, content: bytes) -> bool:
    with closing(PictureStore(picture_path(data))) as pictures:
        return bool(pictures.held([content]))


def test_a_wrong_list_of_items_deletes_no_picture(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "PIL"):
        pytest.importorskip(module)
    data, content = settings.storage.data, b"c" * 32
    data.mkdir(mode=0o700, exist_ok=True)
    with closing(PictureStore(picture_path(data), writes=True)) as pictures:
        pictures.put({content: plain_picture((1, 2, 3))}, 0)
    file = tmp_path / "items.jsonl"
    monkeypatch.setenv("TACTFUL_UNDERSTANDING__PICTURE_MODEL", "packaged")
    for lines, prune, code, said in (
        ('{"item_id": "a", "title": "Mug"}', True, 2, "item_id"),
        ("", True, 2, "no item"),
        ('{"text": "Mug"}', False, 0, "0 removed"),
        ('{"text": "Mug"}', True, 0, "0 removed"),
    ):
        assert kept_after(data, content)
        file.write_text(lines)
        command = ["items", "encode", "--data", str(data), "--items", str(file)]
        done = CliRunner().invoke(main, [*command, "--prune"] if prune else command)
        assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not kept_after(data, content), "nobody has had it since 1970, and all items are given"
    alone = CliRunner().invoke(main, ["items", "encode", "--data", str(data), "--prune"])
    assert alone.exit_code == 2 and "--items" in alone.output
    typo = CliRunner().invoke(main, ["items", "encode", "--data", str(tmp_path / "typo")])
    assert typo.exit_code and "no such data directory" in typo.output
    assert not (tmp_path / "typo").exists()


def test_the_command_deletes_no_vectors_of_a_server(tmp_path: Path, settings: Settings) -> None:
    """The log may lack descriptions, and a server may have encoded later ones meanwhile."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    chosen = with_encoder(settings, str(write_model(tmp_path / "model")))
    assert encode_catalogue(chosen, [Described("w1"), Described("w2")]).new == 2
    write_log(settings.storage.data / "log", [item(0, "w2")]).close()
    assert encode_catalogue(chosen).kept == 1
    pruned = encode_catalogue(chosen, [Described("w1")], prune=True)
    assert (pruned.kept, pruned.removed) == (1, 1)


def with_encoder(settings: Settings, model: str, **changes: Any) -> Settings:
    return replace(
        settings, understanding=replace(settings.understanding, text_model=model, **changes)
    )


def finding(settings: Settings, name: str = "encoder") -> tuple[str, str]:
    return next((it.state, it.said) for it in examine(settings) if it.name == name)


@pytest.mark.parametrize(
    ("damage", "said"), [("absent", "cannot be read"), ("graph", "cannot be loaded")]
)
def test_the_doctor_checks_the_encoder(
    tmp_path: Path, settings: Settings, damage: str, said: str
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    model = write_model(tmp_path / "model")
    chosen = with_encoder(settings, str(model))
    assert encode_catalogue(chosen, [Described("w1"), Described("w2")]).new == 2
    state, told = finding(chosen)
    assert state == "ok", told
    assert told.startswith("model-") and "2 texts are encoded" in told
    if damage == "absent":
        shutil.rmtree(model)
    else:
        (model / "model.onnx").write_bytes(b"no graph")
    state, told = finding(chosen)
    assert state == "warning" and said in told and "by their words alone" in told
    assert all(check.name != "encoder" for check in examine(settings))


def test_the_doctor_checks_the_encoder_of_pictures(tmp_path: Path, settings: Settings) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("PIL")
    state, told = finding(with_encoder(settings, "", picture_model="packaged"), "picture encoder")
    assert (state, "0 pictures are encoded" in told) == ("ok", True), told
    file = picture_path(settings.storage.data)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 100)
    state, told = finding(with_encoder(settings, "", picture_model="packaged"), "picture encoder")
    assert (state, "restore the file" in told) == ("warning", True), told
    file.unlink()
    absent = with_encoder(settings, "", picture_model=str(tmp_path / "none"))
    state, told = finding(absent, "picture encoder")
    assert state == "warning" and "placed by their words and events alone" in told


def test_a_broken_encoder_does_not_hinder_the_other(tmp_path: Path, settings: Settings) -> None:
    for module in ("onnxruntime", "tokenizers", "PIL"):
        pytest.importorskip(module)
    model = write_model(tmp_path / "model")
    both = with_encoder(settings, str(model), picture_model=str(tmp_path / "none"))
    items = [Described("w1"), Described("w2")]
    for _ in range(2):
        with pytest.raises(ConfigError, match="none"):
            encode_catalogue(both, items)
    assert encode_catalogue(with_encoder(settings, str(model)), items).kept == 2
    other = with_encoder(settings, str(tmp_path / "gone"), picture_model="packaged")
    with pytest.raises(ConfigError, match="gone"):
        encode_catalogue(other, items)
    assert encode_catalogue(with_encoder(settings, str(model)), items).kept == 2, "none is lost"


@pytest.mark.slow
def test_an_absent_package_does_not_hinder_the_other_encoder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "PIL"):
        pytest.importorskip(module)

    def absent(_: Settings) -> None:
        raise ImportError("No module named 'tokenizers'")

    monkeypatch.setattr("tactful.models.encode_catalogue.open_text_encoder", absent)
    settings.storage.data.mkdir(mode=0o700, exist_ok=True)
    with closing(PictureStore(picture_path(settings.storage.data), writes=True)) as pictures:
        pictures.put({b"c" * 32: plain_picture((1, 2, 3))}, 0)
    chosen = with_encoder(settings, "minilm", picture_model="packaged")
    with pytest.raises(ImportError, match="tokenizers"):
        encode_catalogue(chosen, [Described("Mug", reference_of(b"c" * 32))])
    assert "1 pictures are encoded" in finding(chosen, "picture encoder")[1]


def test_a_long_encoding_is_a_job(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    chosen, data = with_encoder(settings, str(write_model(tmp_path / "m"))), settings.storage.data
    items = [Described(f"w{number} shoes") for number in range(5)]
    encode_catalogue(chosen, items[:2])
    assert jobs_of(data) == []
    monkeypatch.setattr("tactful.models.encode_catalogue._LONG", 3)
    encode_catalogue(chosen, items)
    (job,) = jobs_of(data)
    assert (job.kind, job.state, job.progress, job.stage) == ("encoding", "done", 1.0, "encode")
    encode_catalogue(chosen, items)
    assert len(jobs_of(data)) == 1, "nothing was new"


@pytest.mark.slow  # a server starts the command five times
def test_a_server_encodes_new_items_and_serves_on_without_its_model(
    tmp_path: Path, settings: Settings
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    model = tmp_path / "model"
    chosen = with_encoder(settings, str(model), every_s=0.1)
    opened = stored_vectors(chosen)
    assert opened is not None
    with Live(Platform.open(chosen, build)) as live:

        def put(number: int, title: str) -> None:
            live.http.put("/v1/items", json=[{"item_id": f"i{number}", "title": title}])

        def check() -> str:
            answer = live.http.get("/readyz")
            assert answer.status_code == 200
            return str(answer.json()["checks"]["encoder"])

        def metrics() -> list[str]:
            return [
                line
                for line in live.http.get("/metrics").text.splitlines()
                if line.startswith(("tactful_items_unencoded ", "tactful_encoding_failed "))
            ]

        put(0, "w1 mug")
        wait_until(lambda: check() != "ok")
        assert "tactful doctor" in check()
        assert metrics() == ["tactful_items_unencoded 1.0", "tactful_encoding_failed 1.0"]
        listed = live.http.post("/v1/recommend", json={"user_id": "u"}).json()
        assert [it["item_id"] for it in listed["items"]] == ["i0"], "it serves without the model"
        system = live.http.get("/v1/system").json()["checks"]
        assert {"name": "encoder", "state": "failed"}.items() <= next(
            it.items() for it in system if it["name"] == "encoder"
        )
        write_model(model)
        wait_until(lambda: check() == "ok")
        encoder = OnnxTextEncoder(model)
        rows = opened(f"text:{encoder.name}:{encoder.dimensions}")
        assert rows.of([item(0, "w1 mug")]).any()
        put(1, "w2 红色")
        wait_until(lambda: bool(rows.of([item(1, "w2 红色")]).any()))
        wait_until(
            lambda: metrics() == ["tactful_items_unencoded 0.0", "tactful_encoding_failed 0.0"]
        )
        put(0, "w3 mug")
        wait_until(lambda: not rows.of([item(0, "w1 mug")]).any())


def kinds_of_words() -> list[Entry]:
    """A shop whose items have titles that share no word, but are of eight kinds to the encoder."""
    shop = entries(make_shop(41, people=60, items=320, days=40))
    numbers = {it.item_id: n for n, it in enumerate(it for it in shop if isinstance(it, Item))}
    return [
        msgspec.structs.replace(
            it, title=f"w{numbers[it.item_id] % CATEGORIES}_{n}", category=None, properties={}
        )
        if isinstance(it, Item)
        else it
        for n, it in enumerate(shop)
    ]


@pytest.mark.slow  # trains
def test_a_training_encodes_what_is_absent_and_its_model_names_the_encoder(
    tmp_path: Path, tracking_uri: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    data, model = tmp_path / "data", write_model(tmp_path / "model")
    write_log(data / "log", kinds_of_words()).close()
    monkeypatch.setenv("TACTFUL_UNDERSTANDING__TEXT_MODEL", str(model))
    command = ["train", "--data", str(data), "--lists", "100", "--label-days", "20", "--json"]
    plain = OnnxTextEncoder.encode
    calls = []

    def killed(encoder: OnnxTextEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(encoder, texts)

    with monkeypatch.context() as patch:
        patch.setattr(OnnxTextEncoder, "encode", killed)
        assert CliRunner().invoke(main, command).exit_code != 0
    assert calls[0] == 256 and len(calls) == 2
    total = sum(calls)  # items that anybody took
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    *lines, result = map(json.loads, done.stdout.splitlines())
    encoding = [(it["done"], it["total"]) for it in lines if it["stage"] == "encode"]
    assert encoding[:2] == [(256, total), (total, total)]

    encoder = OnnxTextEncoder(model)
    content = RecallIndex.load(
        version_directory(data / "models", result["version"]) / "index"
    ).content
    assert content.encoder == f"text:{encoder.name}:{encoder.dimensions}"
    fresh = [item(number, f"w{number}_{9_000 + number}") for number in range(CATEGORIES)]
    assert not content.vectors(fresh).any(), "no word of theirs is known"
    chosen = replace(
        with_encoder(settings, str(model)), storage=replace(settings.storage, data=data)
    )
    assert encode_catalogue(chosen, [described(it) for it in fresh]).new == CATEGORIES
    opened = stored_vectors(chosen)
    assert opened is not None
    served = opened(content.encoder)
    assert np.linalg.norm(content.vectors(fresh, served), axis=1) == pytest.approx(1.0, abs=1e-4)

    other = write_model(tmp_path / "other", seed=1)
    changed = with_encoder(chosen, str(other))
    assert encode_catalogue(changed, [described(it) for it in fresh], prune=True).new
    assert not content.vectors(fresh, served).any(), "an encoder that has changed says nothing"
    second = OnnxTextEncoder(other)
    assert not content.vectors(fresh, opened(f"text:{second.name}:{second.dimensions}")).any()
