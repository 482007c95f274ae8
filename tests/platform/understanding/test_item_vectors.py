"""Vectors of items: encoded once, kept by content, resumed, and deleted with their texts."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.understanding.tiny_model import write_model
from tests.platform.understanding.tiny_picture_model import plain_picture
from tests.platform.understanding.word_encoder import WordEncoder

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import ConfigError, PictureError, StorageError
from tactful.understanding.encode import encode_pictures, encode_texts
from tactful.understanding.encoder import Encoder
from tactful.understanding.item_vectors import (
    ItemVectors,
    Part,
    item_text,
    open_item_vectors,
    parts_of,
    store_path,
    stored_vectors,
    working_item_vectors,
)
from tactful.understanding.picture_encoder import PACKAGED, OnnxPictureEncoder
from tactful.understanding.picture_store import (
    Fetched,
    PictureStore,
    picture_path,
    reference_of,
)
from tactful.understanding.pictures import shrunk
from tactful.understanding.vector_store import VectorStore, content_key
from tactful_streaming.contract.log_entries import Item

TEXTS = [f"word{number} mug" for number in range(600)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    opened = VectorStore(tmp_path / "vectors.db", writes=True)
    yield opened
    opened.close()


def encoded(texts: list[str], encoder: Encoder, store: VectorStore) -> tuple[int, int, int]:
    """Encode texts and delete other vectors; return how many are new, kept and removed."""
    found = encode_texts(texts, encoder, store)
    return found.new, found.kept, store.keep_only({encoder.name: found.keys})


def test_the_text_of_an_item() -> None:
    def text(title: str | None, **properties: str | int) -> str:
        return item_text(Item(item_id="i", timestamp=0, title=title, properties={**properties}))

    assert text("Mug", description="Blue.") == "Mug. Blue."
    assert (text(None, description="Blue"), text("Mug"), text(None)) == ("Blue", "Mug", "")
    assert text("Mug", description=3) == "Mug"
    assert len(text("x" * 9_000)) == 4_000


def test_each_text_is_encoded_once(store: VectorStore, pictures: PictureStore) -> None:
    encoder = WordEncoder()
    assert encoded([*TEXTS, *TEXTS, "", "?!"], encoder, store) == (600, 0, 0)
    assert sorted(text for call in encoder.calls for text in call) == sorted(TEXTS)
    assert encoded(TEXTS, encoder, store) == (0, 600, 0)
    items = [Item(item_id=str(n), timestamp=0, title=text) for n, text in enumerate(TEXTS)]
    rows = ItemVectors(store, pictures, [Part("text", encoder.name, 16)]).of(
        [items[7], None, items[3], items[7]]
    )
    wanted = WordEncoder().encode([TEXTS[7], "", TEXTS[3], TEXTS[7]])
    assert rows == pytest.approx(wanted, abs=1e-3)


def test_an_interrupted_encoding_goes_on(tmp_path: Path) -> None:
    first = VectorStore(tmp_path / "vectors.db", writes=True)
    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, WordEncoder(most=2), first)
    second = VectorStore(tmp_path / "vectors.db", writes=True)  # the first was not closed
    seen: list[tuple[int, int]] = []
    found = encode_texts(TEXTS, WordEncoder(), second, progress=lambda *at: seen.append(at))
    assert found[:2] == (88, 512) and seen == [(512, 600), (600, 600)]


def test_vectors_go_with_their_texts_and_encoders(store: VectorStore, tmp_path: Path) -> None:
    encode_texts(["secret mug", "blue mug"], WordEncoder(), store)
    encode_texts(["secret mug"], other := WordEncoder(), store)
    other.name = "words-2"
    assert encoded(["blue mug"], other, store) == (1, 0, 2)
    keys = [content_key(text.encode()) for text in ("secret mug", "blue mug")]
    assert store.missing("words-2", keys) == keys[:1]
    assert store.missing("words-1", keys) == keys
    whole = b"".join(path.read_bytes() for path in tmp_path.glob("vectors.db*"))
    assert keys[0] not in whole and keys[1] in whole


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[PictureStore]:
    opened = PictureStore(tmp_path / "pictures.db", writes=True)
    yield opened
    opened.close()


def test_words_and_pictures_are_joined(store: VectorStore, pictures: PictureStore) -> None:
    encoder, words = OnnxPictureEncoder(PACKAGED), WordEncoder()
    files = {content_key(data): data for data in map(plain_picture, [(200, 0, 0), (0, 0, 200)])}
    red, blue = files
    pictures.put({content: shrunk(data) for content, data in files.items()}, 5)
    pictures.put({b"damaged": b"nothing"}, 5)
    contents = [red, blue, red, b"", b"not kept", b"damaged"]
    found = encode_pictures(contents, encoder, pictures, store)
    assert found[:2] == (3, 0)
    assert encode_pictures(contents, encoder, pictures, store)[:2] == (0, 3)
    encode_texts(["blue mug"], words, store)
    parts = [Part("text", words.name, 16), Part("picture", encoder.name, 91)]
    vectors = ItemVectors(store, pictures, parts)
    items = [
        Item(item_id="a", timestamp=0, image=reference_of(blue)),
        Item(item_id="b", timestamp=0, title="blue mug"),
        Item(item_id="c", timestamp=0, title="blue mug", image="https://shop.example/blue.png"),
        None,
    ]
    rows = vectors.of(items)
    assert rows.shape == (4, 107) and rows[0, 16:].any() and not rows[0, :16].any()
    assert rows[1, :16].any() and not rows[1, 16:].any() and not rows[3].any()
    assert np.array_equal(rows[1], rows[2])
    pictures.note("https://shop.example/blue.png", Fetched(blue, "", 5))
    assert np.array_equal(vectors.of(items)[2], rows[0] + rows[1])
    assert parts_of(vectors.name) == parts and not parts_of("minilm-1 + text:a:3")


def test_a_picture_without_a_vector_for_a_passing_cause_is_tried_again(
    store: VectorStore, pictures: PictureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, files = OnnxPictureEncoder(PACKAGED), [plain_picture((n, 0, 0)) for n in range(3)]
    keys = [content_key(data) for data in files]
    pictures.put(dict(zip(keys, files, strict=True)), 5)
    with monkeypatch.context() as patch:
        patch.setattr("tactful.understanding.pictures._read", raises_memory_error)
        with pytest.raises(PictureError, match="memory"):
            encode_pictures(keys, encoder, pictures, store)
    assert store.missing(encoder.name, keys) == keys
    monkeypatch.setattr(pictures, "held", lambda contents: {*contents})  # one is deleted after that
    encode_pictures([*keys, b"gone"], encoder, pictures, store)
    assert store.missing(encoder.name, [*keys, b"gone"]) == [b"gone"]


def raises_memory_error(*_: object) -> None:
    raise MemoryError


@given(st.lists(st.text(max_size=8), max_size=12), st.lists(st.text(max_size=8), max_size=12))
@settings(max_examples=20, deadline=None)
def test_a_store_holds_the_texts_of_the_last_call(first: list[str], second: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore(Path(folder) / "v.db", writes=True)
        for texts in (first, second):
            new, kept, _ = encoded(texts, WordEncoder(), store)
            spoken = {text for text in texts if any(map(str.isalnum, text))}
            assert new + kept == len(spoken)
        assert encode_texts(second, WordEncoder(), store).new == 0
        store.close()


def test_a_reader_waits_for_the_file_and_sees_each_change(tmp_path: Path) -> None:
    from dataclasses import replace

    configured = Settings()
    assert stored_vectors(configured) is None
    configured = replace(
        configured,
        storage=replace(configured.storage, data=tmp_path),
        understanding=replace(configured.understanding, text_model="minilm"),
    )
    opened = stored_vectors(configured)
    assert opened is not None
    reader = opened("text:words-1:16")
    item = Item(item_id="i", timestamp=0, title="blue mug")
    assert reader.version() == 0 and not reader.of([item]).any()
    writer = VectorStore(store_path(tmp_path), writes=True)
    assert not reader.of([item]).any()
    before = reader.version()
    encode_texts(["blue mug"], WordEncoder(), writer)
    assert reader.version() != before and reader.of([item]).any()
    assert not opened("text:words-1:8").of([item]).any(), "vectors of another length are none"
    writer.close()


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="delete the file"):
        VectorStore(path, writes=True)
    with pytest.raises(StorageError, match=r"vectors\.db"):
        VectorStore(path).get("words-1", [b"k"], 16)


def test_a_missing_encoder_stops_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = Settings(
        storage=StorageSettings(data=tmp_path),
        understanding=UnderstandingSettings(text_model=str(tmp_path / "gone")),
    )
    with working_item_vectors(chosen) as vectors:
        assert vectors is None
    assert "without one of their encoders" in caplog.text and "gone" in caplog.text
    both = replace(chosen, understanding=replace(chosen.understanding, picture_model="packaged"))
    with working_item_vectors(both) as vectors:
        assert vectors is not None and [part.kind for part in vectors.encoded] == ["picture"]
    with pytest.raises(ConfigError), open_item_vectors(both):
        pass
    store_path(tmp_path).write_bytes(b"no database" * 1_000)
    with working_item_vectors(both) as vectors:
        assert vectors is None
    assert "by their words alone" in caplog.text


def test_values_that_are_no_numbers_become_zero(store: VectorStore, tmp_path: Path) -> None:
    store.put("words-1", [b"k"], np.full((1, 16), np.nan, np.float32))
    assert not store.get("words-1", [b"k"], 16).any()
    assert sqlite3.connect(tmp_path / "vectors.db").execute("SELECT 1 FROM vectors").fetchone()


@pytest.mark.slow  # starts processes, and kills them while they encode
@pytest.mark.parametrize("kind", ["text", "picture"])
def test_a_killed_process_resumes(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    count = 30_000 if kind == "text" else 12_000
    if kind == "text":
        model = str(write_model(tmp_path / "tiny"))
        lines = [f'{{"text": "w{n % 30} {n}"}}' for n in range(count)]
    else:
        model, file = "packaged", shrunk(plain_picture((0, 0, 200)))
        contents = [content_key(str(n).encode()) for n in range(count)]
        (tmp_path / "data").mkdir(mode=0o700)
        pictures = PictureStore(picture_path(tmp_path / "data"), writes=True)
        pictures.put(dict.fromkeys(contents, file), 0)
        pictures.close()
        lines = [f'{{"image": "{reference_of(content)}"}}' for content in contents]
    (tmp_path / "items").write_text("\n".join(lines))
    command = [sys.executable, "-m", "tactful", "items", "encode", "--json"]
    command += ["--data", str(tmp_path / "data"), "--items", str(tmp_path / "items")]
    variables = {**os.environ, f"TACTFUL_UNDERSTANDING__{kind}_MODEL".upper(): model}
    kept = [0]
    for _ in range(2):
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while _count(tmp_path) <= kept[-1] + 500 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept.append(_count(tmp_path))
    assert kept == sorted(kept) and kept[-1] > kept[0]
    done = subprocess.run(command, env=variables, capture_output=True, check=True)
    assert f'"kept":{kept[-1]},'.encode() in done.stdout
    assert _count(tmp_path) == count


def _count(folder: Path) -> int:
    path = store_path(folder / "data")
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path, timeout=30.0) as connection:
            return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
