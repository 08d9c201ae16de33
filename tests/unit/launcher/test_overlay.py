"""Our code as an archive: the same bytes for the same files, no secret, no data."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from launcher.cloud_spec import CodeSpec
from launcher.overlay import pack_overlay
from rayasr.errors import ConfigError, LaunchError, RayasrError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("rayasr/__init__.py", "launcher/__init__.py", "rayasr/data/store.py", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    return tmp_path


def spec(folder: Path, **fields: object) -> CodeSpec:
    return CodeSpec.model_validate({"folder": str(folder)} | fields)


def test_the_packages_travel(checkout: Path) -> None:
    overlay = pack_overlay(spec(checkout))
    assert overlay.files == ("launcher/__init__.py", "rayasr/__init__.py", "rayasr/data/store.py")
    with tarfile.open(fileobj=io.BytesIO(overlay.archive)) as archive:
        assert tuple(archive.getnames()) == overlay.files
        content = archive.extractfile("rayasr/data/store.py")
        assert content is not None
        assert content.read() == b"# rayasr/data/store.py\n"


def test_the_same_files_give_the_same_bytes(checkout: Path) -> None:
    first = pack_overlay(spec(checkout)).archive
    os.utime(checkout / "rayasr/__init__.py", (1, 1))
    (checkout / "rayasr/__init__.py").chmod(0o600)
    (checkout / "rayasr/data/again.py").write_text("")
    (checkout / "rayasr/data/again.py").unlink()
    assert pack_overlay(spec(checkout)).archive == first
    (checkout / "rayasr/__init__.py").write_text("# changed\n")
    assert pack_overlay(spec(checkout)).archive != first


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "prod.env", "key.pem", "SERVER.KEY", "id_rsa", "id_ed25519.pub"),
        *("credentials", "Credentials.json", "my-credentials.csv", "secrets.yaml", ".netrc"),
        *(".aws/config", ".ssh/known_hosts", ".git-credentials", "a.wav", "a.flac", "a.pt"),
        *("shard.arrow", "old.tar.gz", "model.safetensors"),
    ],
)
def test_secrets_and_data_stay_here(checkout: Path, name: str) -> None:
    path = checkout / "rayasr" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("secret")
    overlay = pack_overlay(spec(checkout))
    assert len(overlay.files) == 3
    assert overlay.left_out == (f"rayasr/{name.split('/')[0]}",)


@pytest.mark.parametrize("name", [".git/config", "__pycache__/a.pyc", ".mypy_cache/x", "a.pyc"])
def test_by_products_are_not_worth_a_word(checkout: Path, name: str) -> None:
    path = checkout / "rayasr" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    overlay = pack_overlay(spec(checkout))
    assert (len(overlay.files), overlay.left_out) == (3, ())


@pytest.mark.parametrize("name", ["credentials.py", "secrets.py", "environment.py", "keys.py"])
def test_modules_are_no_secrets(checkout: Path, name: str) -> None:
    (checkout / "rayasr" / name).write_text("")
    assert f"rayasr/{name}" in pack_overlay(spec(checkout)).files


@pytest.mark.parametrize("pattern", ["store.py", "rayasr/data/*", "data", "*.PY"])
def test_patterns_leave_out_more(checkout: Path, pattern: str) -> None:
    assert "rayasr/data/store.py" not in pack_overlay(spec(checkout, exclude=[pattern])).files


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("-----BEGIN " + "RSA PRIVATE KEY-----", "a private key"),
        ("key = 'AKIA" + "A" * 16 + "'", "an AWS access key"),
        ("AWS_SECRET_ACCESS_KEY=" + "aB3/" * 10, "an AWS secret"),
        ("token: ghp_" + "a1" * 18, "a token"),
    ],
)
def test_a_file_that_smells_of_a_secret_is_refused(checkout: Path, content: str, what: str) -> None:
    (checkout / "rayasr/data/notes.py").write_text(content)
    with pytest.raises(LaunchError) as caught:
        pack_overlay(spec(checkout))
    assert str(caught.value).startswith(f"rayasr/data/notes.py seems to hold {what};")
    assert pack_overlay(spec(checkout, exclude=["notes.py"])).left_out == ("rayasr/data/notes.py",)


def test_a_large_checkout_is_refused(checkout: Path) -> None:
    (checkout / "rayasr/big.txt").write_bytes(b"x" * 2_000_000)
    sentence = r"has 2\.0 MB, more than sagemaker\.code\.max_mb = 1; .* rayasr/big\.txt"
    with pytest.raises(LaunchError, match=sentence):
        pack_overlay(spec(checkout, max_mb=1))


@pytest.mark.parametrize("target", ["__init__.py", "/etc/hostname", "nowhere", "data"])
def test_links_are_refused(checkout: Path, target: str) -> None:
    (checkout / "rayasr/link").symlink_to(target)
    with pytest.raises(LaunchError, match="rayasr/link is no plain file"):
        pack_overlay(spec(checkout))


@pytest.mark.parametrize("folder", ["nowhere", "~nobody-here/x", "a\0b", "README.md"])
def test_a_folder_that_is_no_checkout(
    checkout: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    with pytest.raises(ConfigError, match="is no checkout of rayasr"):
        pack_overlay(CodeSpec(folder=folder))


def test_a_folder_that_cannot_be_read(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RayasrError, match=r"cannot read .*: Permission denied; mend it"):
        pack_overlay(spec(checkout))


def test_this_checkout_can_travel() -> None:
    overlay = pack_overlay(spec(ROOT))
    assert {"rayasr/ray_train.py", "launcher/overlay.py"} <= set(overlay.files)
    assert overlay.left_out == ()
