"""Many texts looked for at once, against one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful.util import multi_substring as byte_search
from tactful.util.multi_substring import Texts

few = st.binary(min_size=6, max_size=12).map(lambda b: bytes(97 + each % 2 for each in b))


@given(
    st.lists(few, max_size=6), st.binary(max_size=200).map(lambda b: bytes(97 + x % 2 for x in b))
)
def test_any_of_many_is_found_as_one_by_one(texts: list[bytes], data: bytes) -> None:
    assert Texts(texts).occur_in(data) is any(text in data for text in texts)


@given(st.lists(st.binary(min_size=6, max_size=9), min_size=1, max_size=5), st.data())
def test_every_place_is_looked_at(texts: list[bytes], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(texts))
    before, after = data.draw(st.binary(max_size=20)), data.draw(st.binary(max_size=20))

    assert Texts(texts).occur_in(before + text + after)


def test_files_are_read_in_blocks_that_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_search, "_BLOCK", 16)
    path = tmp_path / "file"
    texts = Texts([b"a needle", b"not there at all"])
    for place in range(40):
        path.write_bytes(b"." * place + b"a needle" + b"." * (40 - place))
        assert texts.occur_in_file(path), place
    path.write_bytes(b"." * 60 + b"a needl")
    assert not texts.occur_in_file(path)
    assert texts.occur_in_pairs([(b"k", b"v"), (b"x" * 20, b""), (b"", b"a needle")])
    assert not texts.occur_in_pairs([(b"a nee", b"dle")])


def test_what_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        Texts([b"short"])
    assert not Texts([]).occur_in(b"anything")
