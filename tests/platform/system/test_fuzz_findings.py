"""Inputs that `scripts/bench faults` found: each is refused by an error of our own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.platform.support import small_settings

from tactful.coupons.definitions import load_coupons
from tactful.errors import BackupError, ConfigError, ModelError, SignatureError, TactfulError
from tactful.experiments.definitions import load_rollouts
from tactful.maintenance.backup import read_signed_manifest
from tactful.maintenance.backup_source import MANIFEST
from tactful.ranking.model import read_manifest, read_pointer
from tactful.rerank.frequency_caps import ShownToday
from tactful.rerank.placement_rules import load_placement
from tactful.server.platform import Platform
from tactful.statistics.definitions import load_statistics
from tactful.util.checkpoint import Checkpoint
from tactful.util.checksummed_directory import check_seal
from tactful.util.signing import check_directory, read_public_key
from tactful.workers.pool import run_server
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError
from tactful_federated.core.checkpoint import load_arrays
from tactful_federated.errors import CheckpointError
from tactful_privacy.errors import LedgerError
from tactful_privacy.errors import StateError as OlderLedger
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.rows import unpack_answer
from tactful_streaming.engine.commits import restore_consumer
from tactful_streaming.errors import LogCorruptedError, StateError
from tactful_streaming.log.segment_catalogue import read_catalogue
from tactful_streaming.state.key_layout import META, read_meta

DEEP = b'{"a":' * 5_000
KEY_OF_NO_KIND = (
    b"-----BEGIN PUBLIC KEY-----\n"
    b"MCowBQYDO2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    b"-----END PUBLIC KEY-----\n"
)
ROLLOUT = b'- {key: a, change: {objective: {"relevanc\\ud800e": 1}}, guardrails: [], stages: [1]}'
SURROGATE = b'[{"name\\ud800": 1}]'


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, rows=np.arange(7))
    return file.getvalue()


def folder_of(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: read(path.parent)


@pytest.mark.parametrize(
    ("read", "name", "content", "error"),
    [
        (load_statistics, "s.yaml", b'da\xffily_epsilon: "6"', ConfigError),
        (load_statistics, "s.yaml", b"a: 2026-99-99", ConfigError),
        (load_statistics, "s.yaml", b"[" * 5_000, ConfigError),
        (load_rollouts, "r.yaml", ROLLOUT, ConfigError),
        (load_coupons, "c.yaml", b"- {name: 2026-99-99}", ConfigError),
        (load_coupons, "c.yaml", SURROGATE, ConfigError),
        (load_placement, "p.yaml", SURROGATE, ConfigError),
        (load_experiments, "e.yaml", b"\xe5", DefinitionError),
        (read_public_key, "key.pem", KEY_OF_NO_KIND, SignatureError),
        (folder_of(read_signed_manifest), MANIFEST, DEEP, BackupError),
        (folder_of(read_manifest), "manifest.json", DEEP, ModelError),
        (folder_of(read_pointer), "champion.json", DEEP, ModelError),
        (folder_of(read_catalogue), "segments", DEEP, LogCorruptedError),
        (folder_of(check_seal), "seal.json", DEEP, ModelError),
        (
            folder_of(check_seal),
            "seal.json",
            json.dumps({"files": {"\0": {"size": 1, "crc32": 1}}}).encode(),
            ModelError,
        ),
        (
            lambda path: check_directory(path.parent, ["00"]),
            "signature.json",
            DEEP,
            SignatureError,
        ),
        (load_arrays, "a.npz", arrays()[:-30], CheckpointError),
        (load_arrays, "a.npz", arrays()[:70] + arrays()[200:], CheckpointError),
    ],
)
def test_a_damaged_file_is_refused(
    read: Callable[[Path], object],
    name: str,
    content: bytes,
    error: type[Exception],
    tmp_path: Path,
) -> None:
    """The message names the file or its folder."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=tmp_path.name):
        read(path)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04-\0\0\0", arrays()[:-30], b"PK\x05\x06" + bytes(18)]
)
def test_a_damaged_part_of_a_training_is_refused(content: bytes, tmp_path: Path) -> None:
    with Checkpoint.hold(tmp_path / "training") as checkpoint:
        checkpoint.save_part(0, {"rows": np.arange(3)})
        (tmp_path / "training" / "parts" / "000000.npz").write_bytes(content)
        if content.startswith(b"PK\x05\x06"):  # a whole archive without arrays
            assert [*checkpoint.parts()] == [{}]
            return
        with pytest.raises(ModelError, match=r"000000\.npz: damaged"):
            [*checkpoint.parts()]


def test_a_deeply_nested_head_of_a_state_is_refused() -> None:
    with pytest.raises(StateError, match="cannot be read"):
        read_meta({META: b"\x81\xa1a" * 5_000})  # type: ignore[arg-type]


@pytest.mark.parametrize("snapshot", [b"\x91" * 5_000, b"\xc1", b"\x91\x92\xa1a\x01"])
def test_a_damaged_snapshot_of_a_consumer_is_refused(snapshot: bytes) -> None:
    with pytest.raises(StateError, match="consumer shown is damaged"):
        restore_consumer("shown", ShownToday(), snapshot)


def test_a_query_with_a_number_of_5000_digits_is_refused() -> None:
    query = Query("a", 1, 2, Fraction(1, 4))
    text = query.to_json().replace("1/4", "1e5000")
    row = SimpleNamespace(name="a", fingerprint=query.fingerprint, definition=text)
    row.answer, row.answered_at, row.reserved_at = None, None, 1
    with pytest.raises(LedgerError, match="definition of 'a' is damaged"):
        unpack_answer(row)  # type: ignore[arg-type]


def test_a_ledger_of_another_installation_ends_a_server_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OlderLedger("the ledger does not hold all releases")

    monkeypatch.setattr(Platform, "open", refuse)
    settings = small_settings(tmp_path)
    with pytest.raises(TactfulError, match=r"ledger\.db, .*statistics\.secret: the ledger does"):
        run_server(settings, rebuild=False, as_json=True)
