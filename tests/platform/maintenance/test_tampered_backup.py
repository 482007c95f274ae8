"""A backup that somebody changed is refused, and none writes outside of its target."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.maintenance.test_backup import files_of, soon
from tests.platform.support import small_settings

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.errors import BackupError, SignatureError, StorageError
from tactful.maintenance.backup import (
    BackupFile,
    Manifest,
    Trust,
    describe,
    make_backup,
    read_manifest,
    write_manifest,
)
from tactful.maintenance.backup_paths import refuse_foreign_paths
from tactful.maintenance.backup_source import FILES
from tactful.maintenance.restore import check_backup, restore_backup
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.metadata.restore_journal import RESTORING, finish_restore
from tactful.util.signing import (
    ADOPTED_MODELS,
    SIGNING_KEY,
    check_directory,
    open_signing_key,
    sign_directory,
    trusted_keys,
)
from tactful_privacy.people.pseudonyms import Keyring

TRAP = "import os; os.system('touch trapped')"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


def installation(settings: Settings) -> None:
    """A data directory with keys, metadata and a model."""
    data = settings.storage.data
    with exclusive(data):
        open_installation(settings).close()
        Keyring(settings.keyring, clock=soon)
        model = data / "models" / "versions" / "1"
        (model / "index").mkdir(parents=True)
        (model / "manifest.json").write_text("{}")
        (model / "index" / "vectors.npy").write_text("vectors")
        sign_directory(model, open_signing_key(data))


@pytest.fixture
def backup(tmp_path: Path, settings: Settings) -> Path:
    installation(settings)
    make_backup(settings, tmp_path / "backup", clock=soon)
    return tmp_path / "backup"


def restored(settings: Settings, backup: Path, **options: Any) -> Any:
    options = {"clock": soon, "replace": True, "without_tombstones": True, **options}
    with exclusive(settings.storage.data):
        return restore_backup(settings, backup, **options)


def forged(backup: Path, key: Any = None, **added: str) -> Path:
    """Change the manifest as somebody does who may write to a backup."""
    manifest = read_manifest(backup)
    files = [BackupFile(path=path, size=0, sha256="0" * 64) for path in added.values()]
    changed = {**{name: getattr(manifest, name) for name in manifest.__struct_fields__}}
    write_manifest(backup, Manifest(**changed | {"files": [*manifest.files, *files]}), key)
    return backup


def test_compiled_code_never_travels(tmp_path: Path, settings: Settings, backup: Path) -> None:
    """Neither out of an installation nor out of a backup of an earlier version."""
    data = settings.storage.data
    names = ["models/kernels/evaluate_1/x.nbi", "models/kernels/x", "a/b.NBC", "__pycache__/c.pyc"]
    names.append("cache/tactful-3f9a.nbc")
    for name in names:
        for root in (data, backup / FILES):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(TRAP)
    make_backup(settings, tmp_path / "second", clock=soon)
    assert not {file.path for file in read_manifest(tmp_path / "second").files} & {*names}
    manifest = read_manifest(backup)
    manifest.files.extend(describe(backup / FILES, backup / FILES / name) for name in names)
    write_manifest(backup, manifest)
    restored(settings, backup, trust=Trust(accept_unsigned=True))
    assert not [name for name in names if (data / name).exists()]


PATHS = [
    "",
    ".",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a/",
    "~/x\0",
    "a\nb",
    "a\\b",
]
PATHS += [f"{RESTORING}/ready", ".hidden", "a/.b/c", "lock", "LOCK", "log/lock", "backfill/x"]
PATHS += [SIGNING_KEY, "Signing.Key", "a/signing.key", "metadata.db-wal", "ledger.db-journal"]
PATHS += ["metadata.db", "METADATA.DB", "metadata.db/x", "Models/x", "models", "x.new"]


@pytest.mark.parametrize("path", PATHS)
def test_a_hostile_path_is_refused_before_anything_is_placed(
    tmp_path: Path,
    settings: Settings,
    backup: Path,
    path: str,
) -> None:
    """Also if the one who names it has the key."""
    data = settings.storage.data
    forged(backup, open_signing_key(data), path=path)
    before, around = files_of(data), sorted(tmp_path.rglob("*"))
    with pytest.raises(BackupError, match="it names"):
        restored(settings, backup)
    with pytest.raises(BackupError, match="it names"):
        check_backup(backup)
    assert (files_of(data), sorted(tmp_path.rglob("*"))) == (before, around)


@given(st.lists(st.text(st.sampled_from("ab.AB/\\\0é\u0301ß "), max_size=8), max_size=4))
def test_every_accepted_path_is_a_file_of_its_own_below_the_target(names: list[str]) -> None:
    try:
        refuse_foreign_paths(Path("manifest.json"), names)
    except BackupError:
        return
    places = [os.path.normpath(f"/target/{name}") for name in names]
    assert all(place.startswith("/target/") for place in places)
    assert len({place.casefold() for place in places}) == len(names)
    assert not [a for a in places for b in places if b.startswith(f"{a}/")]


def link_file(place: Path, other: Path) -> None:
    place.rename(other)
    place.symlink_to(other)


def link_folder(place: Path, other: Path) -> None:
    place.parent.rename(other)
    place.parent.symlink_to(other)


def link_hard(place: Path, other: Path) -> None:
    os.link(place, other)


def pipe(place: Path, other: Path) -> None:
    place.unlink()
    os.mkfifo(place)


@pytest.mark.parametrize("attack", [link_file, link_folder, link_hard, pipe])
def test_links_in_a_backup_are_refused(
    tmp_path: Path,
    settings: Settings,
    backup: Path,
    attack: Callable[[Path, Path], None],
) -> None:
    attack(backup / FILES / "models" / "versions" / "1" / "manifest.json", tmp_path / "elsewhere")
    before = files_of(settings.storage.data)
    with pytest.raises(BackupError, match="link"):
        restored(settings, backup)
    assert files_of(settings.storage.data) == before


def test_a_journal_or_link_in_the_target_reaches_nothing_outside(tmp_path: Path) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    (data / RESTORING / FILES).mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("x")
    for goes in ("../outside", "/outside", "", "..", "lock", RESTORING, "a\0b"):
        journal = {"goes": [goes], "comes": []}
        (data / RESTORING / "ready").write_text(json.dumps(journal))
        with pytest.raises(BackupError, match="no name of a restored file"):
            finish_restore(data)
    (data / RESTORING / "ready").rename(outside / "ready")
    (data / RESTORING / FILES).rmdir()
    (data / RESTORING).rmdir()
    (data / RESTORING).symlink_to(outside)
    with pytest.raises(BackupError, match="a link"):
        finish_restore(data)
    assert (outside / "kept").read_text() == "x"


def test_a_changed_manifest_is_refused_whatever_is_accepted(
    settings: Settings,
    backup: Path,
) -> None:
    """Its checksum is right: anybody can compute that."""
    path = backup / "manifest.json"
    stored = json.loads(path.read_text())
    stored["manifest"]["begun_at"] += 1
    inner = json.dumps(stored["manifest"])
    signature = json.dumps(stored["signature"])
    digest = hashlib.sha256(inner.encode()).hexdigest()
    path.write_text(f'{{"sha256":"{digest}","manifest":{inner},"signature":{signature}}}')
    for trust in (Trust(), Trust(accept_unsigned=True), Trust(stored["signature"]["key"])):
        with pytest.raises(BackupError, match="signature is wrong"):
            restored(settings, backup, trust=trust)
    path.write_text(f'{{"sha256":"{digest}","manifest":{inner}}}')  # without its signature
    with pytest.raises(BackupError, match="it has no signature"):
        restored(settings, backup)
    with pytest.raises(BackupError, match="it has no signature"):
        restored(settings, backup, trust=Trust(stored["signature"]["key"], accept_unsigned=True))
    restored(settings, backup, trust=Trust(accept_unsigned=True))


def test_another_machine_verifies_with_the_public_key(
    tmp_path: Path,
    settings: Settings,
    backup: Path,
) -> None:
    """The models in the backup are signed again for the machine, but not a changed one."""
    (tmp_path / "machine").mkdir()
    there = replace(settings, storage=replace(settings.storage, data=tmp_path / "machine" / "data"))
    changed = settings.storage.data / "models" / "versions" / "2"
    changed.mkdir()
    (changed / "manifest.json").write_text("{}")
    make_backup(settings, tmp_path / "second", clock=soon)
    own = open_signing_key(settings.storage.data)
    with pytest.raises(BackupError, match=f"signed by key {own.public[:16]}.*--verify-key"):
        restored(there, tmp_path / "second")
    with pytest.raises(BackupError, match="not by that of --verify-key"):
        restored(there, tmp_path / "second", trust=Trust("a" * 64, accept_unsigned=True))
    restored(there, tmp_path / "second", trust=Trust(own.public))
    machine = open_signing_key(there.storage.data)
    assert machine.public != own.public
    versions = there.models / "versions"
    check_directory(versions / "1", trusted_keys(there.storage.data, there.models))
    with pytest.raises(SignatureError):
        check_directory(versions / "2", trusted_keys(there.storage.data, there.models))


def test_the_commands_use_the_keys(tmp_path: Path, settings: Settings, backup: Path) -> None:
    def run(*arguments: object) -> str:
        shown = CliRunner().invoke(main, [*map(str, arguments), "--json"])
        return f"{shown.exit_code} {shown.output}"

    old, new = ("--data", settings.storage.data), ("--data", tmp_path / "new" / "data")
    (tmp_path / "new").mkdir()
    pem = tmp_path / "public.pem"
    pem.write_text(CliRunner().invoke(main, ["keys", "public", *map(str, old)]).output)
    own = open_signing_key(settings.storage.data)
    assert json.loads(run("keys", "public", *old)[2:]) == {"key": own.public}
    assert run("backup", backup, "--check", *old).startswith("0 ")
    assert "signed by key" in run("backup", backup, "--check", *new)
    assert run("backup", backup, "--check", "--verify-key", pem, *new).startswith("0 ")
    restore = ("restore", backup, "--without-tombstones", *new)
    assert "signed by key" in run(*restore)
    assert "no public key" in run(*restore, "--verify-key", backup / "manifest.json")
    assert run(*restore, "--verify-key", pem).startswith("0 ")


def test_the_key_is_private_and_stays(tmp_path: Path, settings: Settings, backup: Path) -> None:
    path = settings.storage.data / SIGNING_KEY
    kept = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = kept.splitlines()[1]
    assert not [
        file for file in backup.rglob("*") if file.is_file() and secret in file.read_bytes()
    ]
    restored(settings, backup)
    assert path.read_bytes() == kept
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="not a signing key"):
        open_signing_key(settings.storage.data)


def test_named_secrets_are_neither_copied_nor_replaced(
    tmp_path: Path,
    settings: Settings,
) -> None:
    data = settings.storage.data
    installation(settings)
    (data / "secrets").mkdir()
    for name in ("master", "plain"):
        (data / "secrets" / name).write_text(name)
    named = replace(settings.privacy, master_key_file=data / "secrets" / "master")
    settings = replace(settings, privacy=named)
    make_backup(settings, tmp_path / "backup", clock=soon)
    (data / "secrets" / "master").write_text("newer")
    restored(settings, tmp_path / "backup")
    assert (data / "secrets" / "master").read_text() == "newer"
    assert (data / "secrets" / "plain").read_text() == "plain"
    forged(tmp_path / "backup", open_signing_key(data), path="secrets/master")
    with pytest.raises(BackupError, match="replace the secret"):
        restored(settings, tmp_path / "backup")


def test_models_of_an_earlier_version_are_signed_once(tmp_path: Path, settings: Settings) -> None:
    """When the key is made, or when a directory elsewhere is used for the first time."""
    installation(settings)
    data = settings.storage.data
    for name in (SIGNING_KEY, "models/versions/1/signature.json"):
        (data / name).unlink()
    with exclusive(data):
        trusted = trusted_keys(data, data / "models")
    check_directory(data / "models" / "versions" / "1", trusted)
    elsewhere = tmp_path / "elsewhere"
    for number in ("1", "2"):
        model = elsewhere / "versions" / number
        model.mkdir(parents=True)
        (model / "manifest.json").write_text("{}")
        trusted = trusted_keys(data, elsewhere)
        if number == "1":
            check_directory(model, trusted)
        else:
            with pytest.raises(SignatureError, match=r"no signature.*tactful models sign"):
                check_directory(model, trusted)


def test_an_interrupted_signing_is_completed(settings: Settings) -> None:
    """A process was killed after it had made the key and before it had signed the models."""
    installation(settings)
    data = settings.storage.data
    for name in (ADOPTED_MODELS, "models/versions/1/signature.json"):
        (data / name).unlink()
    trusted = trusted_keys(data, data / "models")
    check_directory(data / "models" / "versions" / "1", trusted)


def change(model: Path) -> None:
    (model / "index" / "vectors.npy").write_text("Vectors")


def add(model: Path) -> None:
    (model / "index" / "more.npy").write_text("more")


def take(model: Path) -> None:
    (model / "index" / "vectors.npy").unlink()


def link(model: Path) -> None:
    link_file(model / "index" / "vectors.npy", model.parent / "vectors.npy")


def unsign(model: Path) -> None:
    (model / "signature.json").unlink()


def sign_by_another(model: Path) -> None:
    other = model.parents[3] / "other"
    other.mkdir()
    sign_directory(model, open_signing_key(other))


def flip(model: Path) -> None:
    path = model / "signature.json"
    stored = json.loads(path.read_text())
    first = stored["signature"]["value"][0]
    stored["signature"]["value"] = ("1" if first == "0" else "0") + stored["signature"]["value"][1:]
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize("attack", [change, add, take, link, unsign, sign_by_another, flip])
def test_a_changed_model_is_refused(settings: Settings, attack: Callable[[Path], None]) -> None:
    installation(settings)
    model = settings.models / "versions" / "1"
    trusted = trusted_keys(settings.storage.data, settings.models)
    check_directory(model, trusted)
    attack(model)
    with pytest.raises(SignatureError, match=str(model)):
        check_directory(model, trusted)
