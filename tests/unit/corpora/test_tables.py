"""CSV and JSON lines, WeNet's data.list, LibriSpeech's layout."""

import json

import pytest

from rayasr.config import CorpusConfig
from rayasr.corpora import table
from rayasr.corpora.read import read_corpora
from rayasr.errors import DataError
from tests.factories import write_lines, write_wav


def read(path):
    corpora = [CorpusConfig(path=str(path))]
    return read_corpora(corpora, dev_fraction=0.1, seed=1, notes=lambda _: None)


def rejects(manifest):
    return {item.key: item.reason for item in manifest.rejects}


def test_csv_with_quotes_and_optional_columns(tmp_path):
    for name in "abc":
        write_wav(tmp_path / "my audio" / f"{name}.wav")
    lines = [
        "audio,text,speaker,split",
        'my audio/a.wav,"yes, please",ann,train',
        "my audio/b.wav,no,bob,test",
        "my audio/c.wav,,bob,train",
        "my audio/d.wav,gone,bob,train",
    ]
    manifest = read(write_lines(tmp_path / "all.csv", lines).parent)
    assert [(u.key, u.text, u.speaker, u.split) for u in manifest.utterances] == [
        ("my_audio-a", "yes, please", "ann", "train"),
        ("my_audio-b", "no", "bob", "test"),
    ]
    assert rejects(manifest) == {"my_audio-c": "empty_text", "my_audio-d": "missing_audio"}
    assert [(item.text, item.speaker) for item in manifest.rejects] == [
        ("gone", "bob"),
        ("", "bob"),
    ]


def test_the_file_name_says_the_split(tmp_path):
    for i, name in enumerate(("train.csv", "dev.csv", "my_test.csv")):
        write_wav(tmp_path / f"{i}.wav")
        write_lines(tmp_path / name, ["audio,text", f"{i}.wav,one"])
    assert read(tmp_path).splits() == ("train", "dev", "test")
    assert read(tmp_path / "my_test.csv").splits() == ("test",)
    assert table.split_of("latest_news") == "train"


def test_nemo_manifest_with_offsets(tmp_path):
    write_wav(tmp_path / "long.wav", seconds=4.0)
    write_wav(tmp_path / "short.wav")
    rows = [
        {"audio_filepath": "long.wav", "duration": 1.5, "offset": 0.5, "text": "one"},
        {"audio_filepath": "long.wav", "duration": 1.0, "offset": 2.0, "text": "two"},
        {"audio_filepath": "short.wav", "duration": 1.0, "text": "three"},
        {"audio_filepath": "short.wav", "offset": 0.0, "duration": -1, "text": "four"},
        {"audio_filepath": "long.wav", "duration": 1.0},
    ]
    write_lines(tmp_path / "test_manifest.json", [json.dumps(row) for row in rows])
    manifest = read(tmp_path)
    assert [(u.key, u.start_s, u.end_s, u.split) for u in manifest.utterances] == [
        ("long-0000500", 0.5, 2.0, "test"),
        ("long-0002000", 2.0, 3.0, "test"),
        ("short", 0.0, None, "test"),
    ]
    assert rejects(manifest) == {"short": "bad_segment", "long": "missing_text"}


def test_table_row_without_audio_is_named(tmp_path):
    write_lines(tmp_path / "all.jsonl", ['{"audio": "a.wav", "text": "a"}', '{"text": "b"}'])
    with pytest.raises(DataError, match=r"all\.jsonl, row 2: no audio"):
        read(tmp_path)


def test_damaged_json_is_named(tmp_path):
    write_lines(tmp_path / "all.jsonl", ['{"audio": "a.wav", "text": "a"}', "{oops"])
    with pytest.raises(DataError, match=r"all\.jsonl, line 2: not JSON"):
        read(tmp_path)


def test_wenet_lists(tmp_path):
    write_wav(tmp_path / "wav" / "a.wav", seconds=2.0)
    rows = [
        {"key": "a", "wav": str(tmp_path / "wav" / "a.wav"), "txt": "一"},
        {"key": "b", "wav": "wav/a.wav", "txt": "二", "start": 0.5, "end": 1.0},
        {"key": "c", "wav": "wav/gone.wav", "txt": "三"},
        {"key": "d", "wav": "wav/a.wav"},
        {"key": "e", "wav": "wav/a.wav", "txt": "四", "start": 2, "end": 1},
    ]
    write_lines(tmp_path / "test" / "data.list", [json.dumps(row) for row in rows])
    manifest = read(tmp_path)
    assert [(u.key, u.audio, u.start_s, u.end_s) for u in manifest.utterances] == [
        ("a", "wav/a.wav", 0.0, None),
        ("b", "wav/a.wav", 0.5, 1.0),
    ]
    assert rejects(manifest) == {"c": "missing_audio", "d": "missing_text", "e": "bad_segment"}
    assert [item.text for item in manifest.rejects] == ["三", None, "四"]
    assert read(tmp_path / "test" / "data.list").splits() == ("train",)


def test_wenet_shards_are_refused_with_what_to_do(tmp_path):
    write_lines(tmp_path / "data.list", ["shards/shards_000000000.tar"])
    with pytest.raises(DataError, match=r"data\.list, line 1: .*make the raw list"):
        read(tmp_path)


def test_librispeech(tmp_path):
    parts = ("train-clean-100", "dev-other", "test-clean", "test-other")
    for chapter, part in enumerate(parts):
        folder = tmp_path / "LibriSpeech" / part / "19" / str(chapter)
        write_wav(folder / f"19-{chapter}-0.flac")
        lines = [f"19-{chapter}-0 CHAPTER ONE", f"19-{chapter}-1 NO AUDIO"]
        write_lines(folder / f"19-{chapter}.trans.txt", lines)
    write_wav(tmp_path / "LibriSpeech" / "dev-other" / "19" / "1" / "19-1-2.flac")
    manifest = read(tmp_path)
    assert manifest.splits() == ("train", "dev", "test", "test-other")
    assert {(item.text, item.speaker) for item in manifest.utterances} == {("CHAPTER ONE", "19")}
    missing = {f"19-{chapter}-1": "missing_audio" for chapter in range(4)}
    assert rejects(manifest) == {**missing, "19-1-2": "missing_text"}
