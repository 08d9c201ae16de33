"""What goes into which shard, what is rejected, and what is never lost."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from rayasr.config import Recipe
from rayasr.data.extraction import ExtractionSettings, make_shard
from rayasr.data.manifest import Manifest, Reject, Utterance
from rayasr.data.shard import read_summary
from rayasr.data.store_writer import (
    StorePlan,
    check_rejects,
    finished_shards,
    frames_for_ctc,
    plan_store,
    remove_leftovers,
    write_rejects,
)
from rayasr.errors import DataError
from tests.factories import write_wav


def recipe(**store: Any) -> Recipe:
    values: dict[str, Any] = {"features": {"num_mel_bins": 20}, "augment": {"speeds": [0.9, 1.1]}}
    return Recipe.model_validate(values | {"store": {"shard_utterances": 4} | store})


def utterance(key: str, text: str = "一", split: str = "train", **values: Any) -> Utterance:
    return Utterance(
        key, **({"audio": f"{key}.wav", "speaker": "s"} | values), text=text, split=split
    )


def manifest(*utterances: Utterance, root: str = "/corpus") -> Manifest:
    return Manifest((root,), utterances)


def names(plan: StorePlan) -> list[str]:
    return [spec.name for spec in plan.specs]


def test_shards_hold_one_split_each_and_do_not_depend_on_the_order_read() -> None:
    items = [utterance(f"{split}{i}", split=split) for split in ("train", "dev") for i in range(9)]
    plan = plan_store(manifest(*items), recipe())
    assert [len(spec.utterances) for spec in plan.specs] == [4, 4, 1, 4, 4, 1]
    assert [spec.split for spec in plan.specs] == ["train"] * 3 + ["dev"] * 3
    shuffled = [items[i] for i in np.random.default_rng(0).permutation(len(items))]
    assert sorted(names(plan_store(manifest(*shuffled), recipe()))) == sorted(names(plan))


def test_shard_names_follow_settings_and_inputs_but_not_where_the_corpus_is() -> None:
    items = [utterance("a", "一二", size=10), utterance("b", "二", size=20)]
    name = names(plan_store(manifest(*items), recipe()))
    assert name == names(plan_store(manifest(*items, root="/elsewhere"), recipe()))
    changed: Sequence[tuple[Manifest, Recipe]] = [
        (manifest(items[0], utterance("b", "二", size=21)), recipe()),
        (manifest(items[0], utterance("b", "二一", size=20)), recipe()),
        (manifest(items[0], utterance("b", "二", size=20, start_s=0.5)), recipe()),
        (manifest(*items), recipe(max_seconds=5.0)),
        (manifest(*items), recipe(payload="pcm")),
    ]
    for other, settings in changed:
        assert names(plan_store(other, settings)) != name


def test_a_packed_archive_stays_in_one_shard_where_it_fits() -> None:
    counts = {"a": 3, "b": 3, "c": 6, "d": 1}
    items = [
        utterance(f"{archive}{i}", audio=f"{archive}.tar.gz::{i}.wav")
        for archive, count in counts.items()
        for i in range(count)
    ]
    plan = plan_store(manifest(*items), recipe())
    shards = ["".join(sorted(u.key[0] for u in spec.utterances)) for spec in plan.specs]
    assert shards == ["aaa", "bbb", "cccc", "ccd"]


def test_training_text_is_normalised_and_rejected_where_units_lack_it(tmp_path: Path) -> None:
    units = tmp_path / "units.txt"
    units.write_text("<blank> 0\n<unk> 1\n<sos/eos> 2\n一 3\n二 4\n", encoding="utf-8")
    settings = recipe().model_copy(
        update={"units": recipe().units.model_copy(update={"file": str(units)})}
    )
    items = [
        utterance("good", "一二。"),
        utterance("unknown", "一三"),
        utterance("nothing", "。。"),
        utterance("test_unknown", "三", split="test"),
        utterance("test_nothing", "。", split="test"),
        utterance("dev_unknown", "一三", split="dev"),
    ]
    plan = plan_store(manifest(*items), settings)
    kept = {u.key: u.text for spec in plan.specs for u in spec.utterances}
    assert kept == {"good": "一二", "dev_unknown": "一三", "test_unknown": "三", "test_nothing": ""}
    assert {item.key: item.reason for item in plan.rejects} == {
        "unknown": "unknown_unit",
        "nothing": "empty_text",
    }
    assert "三" in next(item.detail for item in plan.rejects if item.key == "unknown")
    assert plan.units["test_unknown"] == [plan.tokenizer.unk_id]


@pytest.mark.parametrize("subsampling", [4, 6, 8])
def test_frames_for_ctc_is_the_fewest_that_subsampling_leaves_enough_of(subsampling: int) -> None:
    def subsampled(frames: int) -> int:
        if subsampling == 6:
            return ((frames - 1) // 2 - 2) // 3
        for _ in range({4: 2, 8: 3}[subsampling]):
            frames = (frames - 1) // 2
        return frames

    for ids, needed in (([3], 1), ([3, 4, 5], 3), ([3, 3, 4, 4, 4], 8)):
        frames = frames_for_ctc(ids, subsampling)
        assert subsampled(frames) >= needed > subsampled(frames - 1)
    assert frames_for_ctc([], subsampling) == 0


@pytest.fixture
def bad_corpus(tmp_path: Path) -> Manifest:
    write_wav(tmp_path / "good.wav", 1.0)
    write_wav(tmp_path / "long.wav", 3.0)
    write_wav(tmp_path / "short.wav", 0.05)
    write_wav(tmp_path / "hasty.wav", 0.3)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000, np.float32), 16000)
    soundfile.write(
        tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT"
    )
    (tmp_path / "noise.wav").write_bytes(b"this is no recording" * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:-8000])
    keys = "good long short hasty silent nan noise empty cut gone".split()  # noqa: SIM905
    items = [utterance(key, "一一一一一一一" if key == "hasty" else "一") for key in keys]
    items.append(utterance("hasty_test", "一一一一一一一", "test", audio="hasty.wav"))
    return manifest(*items, root=str(tmp_path))


def test_recordings_that_cannot_be_used_become_rejects_with_reasons(
    bad_corpus: Manifest, tmp_path: Path
) -> None:
    settings = recipe(max_seconds=2.0, shard_utterances=20)
    plan = plan_store(bad_corpus, settings)
    for spec in plan.specs:
        make_shard(spec, ExtractionSettings(settings, plan.roots, str(tmp_path)))
    shards = finished_shards(str(tmp_path), plan)
    assert {item.key: item.reason for shard in shards.values() for item in shard.rejects} == {
        "long": "too_long",
        "short": "too_short",
        "hasty": "too_few_frames",
        "silent": "silent",
        "nan": "not_finite",
        "noise": "unreadable",
        "empty": "empty_audio",
        "cut": "truncated",
        "gone": "missing_audio",
    }
    kept = [key for shard in shards.values() for key in shard.table["key"].to_pylist()]
    assert kept == ["good", "hasty_test"]


@pytest.mark.usefixtures("bad_corpus")
def test_a_test_recording_of_any_length_is_kept_and_a_reject_keeps_its_text(
    tmp_path: Path,
) -> None:
    write_wav(tmp_path / "tiny.wav", 0.0125)  # less than one window
    keys = "good long short silent tiny gone".split()  # noqa: SIM905
    tests = [utterance(key, "一。", "test", speaker=f"of {key}") for key in keys]
    settings = recipe(max_seconds=2.0, shard_utterances=20)
    plan = plan_store(manifest(utterance("train"), *tests, root=str(tmp_path)), settings)
    for spec in plan.specs:
        make_shard(spec, ExtractionSettings(settings, plan.roots, str(tmp_path)))
    shard = list(finished_shards(str(tmp_path), plan).values())[1]
    assert shard.table["key"].to_pylist() == ["good", "long", "short"]
    assert [(item.key, item.reason, item.text, item.speaker) for item in shard.rejects] == [
        ("gone", "missing_audio", "一", "of gone"),
        ("silent", "silent", "一", "of silent"),
        ("tiny", "too_short", "一", "of tiny"),
    ]
    table = pq.read_table(io.BytesIO(write_rejects(str(tmp_path), shard.rejects)))
    assert [Reject(**row) for row in table.to_pylist()] == list(shard.rejects)


def test_texts_of_rejects_are_normalised_and_part_of_the_digest() -> None:
    def plan(text: str | None) -> StorePlan:
        gone = Reject("gone", "test", "gone.wav", "missing_audio", "", text)
        return plan_store(Manifest(("/",), (utterance("a"),), (gone,)), recipe())

    assert plan("二。").rejects[0].text == "二"
    assert plan(None).rejects[0].text is None
    assert (
        plan("二。").digest(recipe()) == plan("二").digest(recipe()) != plan("三").digest(recipe())
    )


def test_too_many_rejects_stop_with_the_table_kept(bad_corpus: Manifest, tmp_path: Path) -> None:
    plan = plan_store(bad_corpus, recipe())
    rejects = list(plan.rejects)
    rejects += [_reject(key, "silent") for key in ("a", "b")] + [_reject("c", "too_long")]
    write_rejects(str(tmp_path), rejects)
    check_rejects(str(tmp_path), rejects, 60, 0.05)
    with pytest.raises(DataError, match=r"3 of 59 utterances .*2 silent, 1 too_long.*a: a.wav"):
        check_rejects(str(tmp_path), rejects, 59, 0.05)
    assert (tmp_path / "rejects.parquet").is_file()


def test_unfinished_and_foreign_shards_are_told_apart(bad_corpus: Manifest, tmp_path: Path) -> None:
    settings = recipe(shard_utterances=6)
    plan = plan_store(bad_corpus, settings)
    folder = tmp_path / "shards"
    folder.mkdir()
    for spec in plan.specs:
        make_shard(spec, ExtractionSettings(settings, plan.roots, str(folder)))
    whole, broken = folder / names(plan)[0], folder / names(plan)[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    foreign = folder / "train-00000-0123456789abcdef.arrow"
    foreign.write_bytes(whole.read_bytes())
    unfinished = folder / f".{whole.name}.4711"
    unfinished.write_bytes(b"")
    notes = folder / "notes.txt"
    notes.write_text("mine")
    assert whole.name in finished_shards(str(folder), plan)
    assert broken.name not in finished_shards(str(folder), plan)
    remove_leftovers(str(folder), None)
    assert not unfinished.exists()
    assert foreign.exists()
    remove_leftovers(str(folder), plan)
    assert not foreign.exists()
    assert notes.exists()
    assert whole.exists()


def test_verify_makes_a_shard_anew_only_where_it_or_its_audio_has_changed(tmp_path: Path) -> None:
    items = [utterance(f"u{i}") for i in range(3)]
    for i, item in enumerate(items):
        write_wav(tmp_path / item.audio, 0.5, seed=i)
    plan = plan_store(manifest(*items, root=str(tmp_path)), recipe())
    settings = ExtractionSettings(recipe(), plan.roots, str(tmp_path), verify=True)
    (spec,) = plan.specs
    make_shard(spec, settings)
    path = tmp_path / spec.name
    good = path.read_bytes()
    assert make_shard(spec, settings).rebuilt == ""
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    path.write_bytes(damaged)
    assert "damaged" in make_shard(spec, settings).rebuilt
    assert path.read_bytes() == good
    write_wav(tmp_path / "u1.wav", 0.5, seed=9)
    assert make_shard(spec, settings).rebuilt == "the audio of u1 has changed"
    summary = read_summary(path)
    assert summary is not None
    assert path.read_bytes() != good


def test_a_full_or_read_only_folder_is_named(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    plan = plan_store(manifest(utterance("a"), root=str(tmp_path)), recipe())
    missing = tmp_path / "file" / "shards"
    missing.parent.write_text("not a folder")
    with pytest.raises(DataError, match=f"cannot write {missing}"):
        make_shard(plan.specs[0], ExtractionSettings(recipe(), plan.roots, str(missing)))


def _reject(key: str, reason: str) -> Any:
    return Reject(key, "train", f"{key}.wav", reason)
