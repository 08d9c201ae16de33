"""AISHELL-1's layout, unpacked and packed."""

import tarfile

import pytest

from rayasr.config import CorpusConfig
from rayasr.corpora.read import read_corpora
from rayasr.errors import DataError
from tests.factories import make_aishell_corpus


def read(path, notes=None):
    corpora = [CorpusConfig(path=str(path))]
    write = notes.append if notes is not None else lambda _: None
    return read_corpora(corpora, dev_fraction=0.1, seed=1, notes=write)


def pack(folder):
    """Replace speaker folders by the archives that are published: wav/S0002.tar.gz."""
    wav = folder / "data_aishell" / "wav"
    for speaker in sorted(wav.glob("*/*")):
        with tarfile.open(wav / f"{speaker.name}.tar.gz", "w:gz") as tar:
            tar.add(speaker, arcname=f"{speaker.parent.name}/{speaker.name}")
        for file in speaker.iterdir():
            file.unlink()
        speaker.rmdir()


def strip(manifest):
    return [(u.key, u.text, u.speaker, u.split, u.size) for u in manifest.utterances]


def test_utterances_in_order(tmp_path):
    manifest = read(make_aishell_corpus(tmp_path, train=2, dev=1, test=1))
    first = manifest.utterances[0]
    assert first.audio == "data_aishell/wav/train/S0002/BAC009S0002W0121.wav"
    assert (first.speaker, first.split) == ("S0002", "train")
    assert [item.split for item in manifest.utterances] == ["train", "train", "dev", "test"]
    assert not manifest.rejects


def test_the_inner_folder_is_a_corpus_too(tmp_path):
    make_aishell_corpus(tmp_path, train=2, dev=1, test=1)
    manifest = read(tmp_path / "data_aishell")
    assert manifest.utterances[0].audio == "wav/train/S0002/BAC009S0002W0121.wav"
    assert strip(manifest) == strip(read(tmp_path))


def test_packed_archives_hold_the_same(tmp_path):
    unpacked = read(make_aishell_corpus(tmp_path, train=4, dev=2, test=2))
    pack(tmp_path)
    notes: list[str] = []
    packed = read(tmp_path, notes)
    assert strip(packed) == strip(unpacked)
    expected = "data_aishell/wav/S0002.tar.gz::train/S0002/BAC009S0002W0121.wav"
    assert packed.utterances[0].audio == expected
    assert "listing 6 packed speaker archives" in notes[0]


def test_archives_beside_what_was_unpacked_count_once(tmp_path):
    make_aishell_corpus(tmp_path, train=2, dev=2, test=2)
    unpacked = read(tmp_path)
    wav = tmp_path / "data_aishell" / "wav"
    with tarfile.open(wav / "S0002.tar.gz", "w:gz") as tar:
        tar.add(wav / "train" / "S0002", arcname="train/S0002")
    assert read(tmp_path) == unpacked


def test_damaged_archive_is_named(tmp_path):
    make_aishell_corpus(tmp_path, train=2, dev=0, test=0)
    pack(tmp_path)
    archive = tmp_path / "data_aishell" / "wav" / "S0002.tar.gz"
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(DataError, match=r"S0002\.tar\.gz is damaged .*download it again"):
        read(tmp_path)


def test_whole_archive_says_how_to_unpack(tmp_path):
    (tmp_path / "data_aishell.tgz").write_bytes(b"x")
    with pytest.raises(DataError, match="still packed; unpack it with `rayasr data download"):
        read(tmp_path)


def test_missing_audio_and_missing_text(tmp_path):
    make_aishell_corpus(tmp_path, train=4, dev=0, test=2)
    wav = tmp_path / "data_aishell" / "wav"
    (wav / "test" / "S0764" / "BAC009S0764W0121.wav").unlink()
    transcript = next((tmp_path / "data_aishell" / "transcript").glob("*.txt"))
    lines = transcript.read_text(encoding="utf-8").splitlines(keepends=True)
    transcript.write_text("".join(lines[1:]), encoding="utf-8")
    rejects = {item.key: (item.reason, item.split) for item in read(tmp_path).rejects}
    assert rejects == {
        "BAC009S0002W0121": ("missing_text", "train"),
        "BAC009S0764W0121": ("missing_audio", "train"),  # its speaker is not heard anywhere
    }


def test_missing_audio_of_a_known_speaker_keeps_its_split(tmp_path):
    make_aishell_corpus(tmp_path, train=0, dev=0, test=4)
    wav = tmp_path / "data_aishell" / "wav"
    (wav / "test" / "S0764" / "BAC009S0764W0121.wav").unlink()
    reject = read(tmp_path).rejects[0]
    assert (reject.reason, reject.split) == ("missing_audio", "test")


def test_repeated_lines_and_files_are_duplicates(tmp_path):
    make_aishell_corpus(tmp_path, train=4, dev=0, test=0)
    wav = tmp_path / "data_aishell" / "wav" / "train"
    copy = wav / "S0009" / "BAC009S0002W0121.wav"
    copy.parent.mkdir()
    copy.write_bytes((wav / "S0002" / copy.name).read_bytes())
    transcript = next((tmp_path / "data_aishell" / "transcript").glob("*.txt"))
    with transcript.open("a", encoding="utf-8") as file:
        file.write("BAC009S0003W0121 九\n")
    manifest = read(tmp_path)
    assert len(manifest.utterances) == 4
    assert [(item.key, item.reason) for item in manifest.rejects] == [
        ("BAC009S0002W0121", "duplicate_key"),
        ("BAC009S0003W0121", "duplicate_key"),
    ]


def test_transcript_folder_without_a_transcript(tmp_path):
    make_aishell_corpus(tmp_path, train=2, dev=0, test=0)
    next((tmp_path / "data_aishell" / "transcript").glob("*.txt")).unlink()
    with pytest.raises(DataError, match=r"holds no transcript; aishell_transcript_v0\.8\.txt"):
        read(tmp_path)
