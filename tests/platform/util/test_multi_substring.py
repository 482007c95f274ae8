"""Searches for many texts at once, compared with searches one by one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.util import multi_substring
from tactful.util.multi_substring import MultiSubstring


def of_two_letters(data: bytes) -> bytes:
    return bytes(97 + byte % 2 for byte in data)


few = st.binary(min_size=6, max_size=12).map(of_two_letters)


@given(st.lists(few, max_size=6), st.binary(max_size=200).map(of_two_letters))
def test_any_of_many_is_found_as_one_by_one(texts: list[bytes], data: bytes) -> None:
    assert MultiSubstring(texts).occur_in(data) is any(text in data for text in texts)


@given(st.lists(st.binary(min_size=6, max_size=9), min_size=1, max_size=5), st.data())
def test_every_place_is_looked_at(texts: list[bytes], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(texts))
    before, after = data.draw(st.binary(max_size=20)), data.draw(st.binary(max_size=20))
    assert MultiSubstring(texts).occur_in(before + text + after)


def test_blocks_of_files_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_substring, "_BLOCK", 16)
    path = tmp_path / "file"
    texts = MultiSubstring([b"a needle", b"not there at all"])
    for place in range(40):
        path.write_bytes(b"." * place + b"a needle" + b"." * (40 - place))
        assert texts.occur_in_file(path), place
    path.write_bytes(b"." * 60 + b"a needl")
    assert not texts.occur_in_file(path)
    assert texts.occur_in_pairs([(b"k", b"v"), (b"x" * 20, b""), (b"", b"a needle")])
    assert not texts.occur_in_pairs([(b"a nee", b"dle")])


PARTS = [b"shop-850", b"workshop-85", b"x-shop-85 ", b"\xa8shop-85x", b"shop-85_a"]
WHOLE = [
    b"shop-85",
    b'{"user_id":"shop-85"}',
    b"device:shop-85",
    b"ushop-85",  # key of a state store
    b"\xa7shop-850",  # in MessagePack, followed by the number 48
    b"user \xe9shop-85\x1f3",
]


@pytest.mark.parametrize("data", PARTS)
def test_parts_of_longer_words_do_not_count(data: bytes) -> None:
    search = MultiSubstring([b"shop-85"])
    assert search.occur_in(data) and not search.occur_in(data, whole=True)
    assert not search.occur_in_pairs([(b"u" + data, data)], whole=True)


@pytest.mark.parametrize("data", WHOLE)
def test_whole_words_are_found_in_every_format(data: bytes) -> None:
    search = MultiSubstring([b"shop-85"])
    assert search.occur_in(data, whole=True)
    assert search.occur_in_pairs([(b"key", b""), (data, b"0"), (b"1", b"2")], whole=True)


@pytest.mark.parametrize("size", [6, 31, 32, 255, 256])
def test_packed_strings_of_any_length_are_whole(size: int) -> None:
    text = "x" * size
    packed = msgspec.msgpack.encode([text, 48])
    assert MultiSubstring([text.encode()]).occur_in(packed, whole=True)
    assert MultiSubstring([b"y" * 6]).occur_in(packed, whole=True) is False
    assert not MultiSubstring([]).occur_in(packed)
    with pytest.raises(ValueError, match="too short"):
        MultiSubstring([b"short"])


@given(st.binary(max_size=60).map(lambda b: bytes(b" ab-\xa7\0"[byte % 6] for byte in b)))
def test_whole_words_in_blocks_are_those_of_the_whole(data: bytes) -> None:
    """A word at the border of two blocks is judged by the bytes on both sides of it."""
    search = MultiSubstring([b"aaaaaa", b"ab-aba"])
    data = data.replace(b"ba", b"aaaaaa").replace(b"bb", b"ab-aba")
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "file").write_bytes(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multi_substring, "_BLOCK", 16)
            assert search.occur_in_file(path, whole=True) is search.occur_in(data, whole=True)
            assert search.occur_in_file(path) is search.occur_in(data)
