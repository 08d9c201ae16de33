"""Members of tar archives, in any order, with little memory."""

import io
import tarfile

import pytest
import torch

from rayasr.data import archive
from rayasr.data.archive import read_member
from rayasr.data.audio import AudioError, load_audio
from rayasr.errors import DataError
from tests.factories import write_wav


def make_archive(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


MEMBERS = {f"./train/S1/{i}.wav": bytes([i]) * 1000 for i in range(9)}


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tar", "w"), ("tar.xz", "w:xz")])
def test_any_order(tmp_path, suffix, mode):
    path = make_archive(tmp_path / f"a.{suffix}", MEMBERS, mode)
    for i in (4, 2, 8, 0, 0, 7):
        assert read_member(path, f"train/S1/{i}.wav") == bytes([i]) * 1000


def test_members_given_up_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_KEPT_BYTES", 2500)
    paths = [make_archive(tmp_path / f"{n}.tar.gz", MEMBERS) for n in range(6)]
    for i in (8, 0, 3, 1, 7):
        for path in paths:
            assert read_member(path, f"train/S1/{i}.wav") == bytes([i]) * 1000
    assert len(archive._open_archives) <= 4


def test_a_replaced_archive_is_read_anew(tmp_path):
    path = make_archive(tmp_path / "a.tar.gz", {"x": b"old"})
    assert read_member(path, "x") == b"old"
    make_archive(tmp_path / "a.tar.gz", {"x": b"newer"})
    assert read_member(path, "x") == b"newer"


def test_bad_archives(tmp_path):
    path = make_archive(tmp_path / "a.tar.gz", MEMBERS)
    for _ in range(2):
        with pytest.raises(DataError, match="no member train/S1/99"):
            read_member(path, "train/S1/99.wav")
    (tmp_path / "b.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_member(str(tmp_path / "b.tar.gz"), "x")
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError):
        read_member(str(tmp_path / "c.tar.gz"), "train/S1/8.wav")


def test_audio_inside(tmp_path):
    wav, flac = (write_wav(tmp_path / f"x.{suffix}", 0.3) for suffix in ("wav", "flac"))
    members = {"a/x.wav": wav.read_bytes(), "a/x.flac": flac.read_bytes(), "a/e.wav": b""}
    path = make_archive(tmp_path / "a.tar.gz", members)
    for name in ("x.wav", "x.flac"):
        inside = load_audio(f"{path}::a/{name}", 16000)
        assert torch.equal(inside, load_audio(tmp_path / name, 16000))
    for name, reason in (("e.wav", "empty_audio"), ("no.wav", "missing_audio")):
        with pytest.raises(AudioError) as info:
            load_audio(f"{path}::a/{name}", 16000)
        assert info.value.reason == reason
    with pytest.raises(AudioError) as info:
        load_audio(f"{tmp_path}/none.tar.gz::a/x.wav", 16000)
    assert info.value.reason == "missing_audio"
