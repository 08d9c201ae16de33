"""Decoding under a real Ray: the same as one process finds, resumed, workers and nodes killed."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayasr import ray_decode, ray_session
from rayasr.checkpoint import LoadedModel, load_model, new_model, save_model
from rayasr.data.store import Store
from rayasr.decode import shards
from rayasr.decode.parts import PARTS_FOLDER, DecodeJob, ShardDecoder
from rayasr.decode.recognizer import Decoding
from rayasr.decode.shards import shards_of
from rayasr.decode.split import decode_split
from rayasr.errors import ConfigError, DataError, LaunchError
from rayasr.ray_decode import decode_store
from rayasr.ray_session import set_environment
from rayasr.tokenizer import Tokenizer
from tests.factories import DIGITS, make_store, make_tone_corpus, tiny_training_recipe

pytestmark = pytest.mark.integration

MODES = ("ctc_greedy_search", "attention_rescoring", "attention")
RECIPE = tiny_training_recipe()
SPLITS = ("test", "dev")
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[Any]:
    """Two Ray nodes of one CPU for the module; decode_store uses a session that is open already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "FEWEST_FRAMES", 300)  # many shards, as large splits have
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_health_check_period_ms", "1000")  # a lost node is noticed after 3 s
        patch.setenv("RAY_health_check_timeout_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        set_environment()
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("place")
    corpus = make_tone_corpus(folder / "corpus", train=2, dev=40, test=100)
    return make_store(folder / "store", corpus, RECIPE)


@pytest.fixture(scope="module")
def loaded(store: Store, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model that has learned nothing, so that all its searches find much."""
    tokenizer = Tokenizer(["<blank>", "<unk>", "<sos/eos>", *DIGITS])
    model = new_model(RECIPE, tokenizer, store.cmvn)
    folder = tmp_path_factory.mktemp("model")
    return load_model(save_model(folder, model.state_dict(), RECIPE, tokenizer, store.cmvn))


@pytest.fixture(scope="module")
def alone(
    loaded: LoadedModel, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[Path, bytes]:
    """What one process leaves."""
    out = tmp_path_factory.mktemp("alone")
    for split in SPLITS:
        decode_split(loaded, store, split, MODES, out)
    return contents(out)


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_workers_leave_what_one_process_does_and_go_on_after_a_stop(
    loaded: LoadedModel, store: Store, alone: dict[Path, bytes], tmp_path: Path
) -> None:
    job = DecodeJob.of(loaded, store, tmp_path, MODES, Decoding.of(loaded))
    decode = ShardDecoder(job)
    bound = RECIPE.decode.max_padded_frames
    cut = [shard for split in SPLITS for shard in shards_of(store, split, bound)]
    for shard in cut[:-20]:  # as an earlier call that was stopped
        decode(shard)
    said: list[str] = []
    results = decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=2, notes=said.append)
    assert f"{len(cut) - 20} of {len(cut)} shards are there already" in said
    assert [line for line in said if "with 2 worker(s)" in line and "real-time factor" in line]
    assert list(results) == list(SPLITS)
    assert contents(tmp_path) == alone


def test_a_killed_worker_costs_its_shard_alone(
    loaded: LoadedModel, store: Store, alone: dict[Path, bytes], tmp_path: Path
) -> None:
    struck = when_parts(3, tmp_path, kill_a_busy_worker)
    decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=2, notes=lambda _: None)
    assert struck.is_set()
    assert contents(tmp_path) == alone


def test_what_cannot_be_decoded_is_refused(
    loaded: LoadedModel, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match="3 workers need a CPU each, the cluster has 2; use "):
        decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=3)
    with pytest.raises(ConfigError, match="--devices cuda: Ray sees no GPU"):
        decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=1, devices="cuda")


def test_a_worker_that_dies_again_and_again_is_given_up(
    loaded: LoadedModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(row: dict[str, Any], job: bytes) -> dict[str, Any]:  # noqa: ARG001
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    monkeypatch.setattr(ray_decode, "_shard_task", dying)
    for module in (ray_decode, ray_session):
        monkeypatch.setattr(module, "MAX_TASK_RETRIES", 1)
    with pytest.raises(DataError, match=r"processes died 2 times .* finished shards are kept"):
        decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=1)


def test_a_lost_node_leaves_its_shard_to_the_others(
    nodes: Any, loaded: LoadedModel, store: Store, alone: dict[Path, bytes], tmp_path: Path
) -> None:
    other = next(iter(nodes.worker_nodes))
    struck = when_parts(3, tmp_path, lambda: nodes.remove_node(other, allow_graceful=False))
    decode_store(loaded, store, SPLITS, MODES, tmp_path, workers=2, notes=lambda _: None)
    assert struck.is_set()
    assert contents(tmp_path) == alone


def when_parts(count: int, out: Path, strike: Callable[[], None]) -> threading.Event:
    """Strike in a thread once that many parts are there; returns what is set then."""
    struck = threading.Event()

    def wait() -> None:
        deadline = time.monotonic() + 120
        while len(list((out / PARTS_FOLDER).glob("*-*.json"))) < count:
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        struck.set()
        strike()

    threading.Thread(target=wait, daemon=True).start()
    return struck


def kill_a_busy_worker() -> None:
    """A process is busy by its title, and idle for a moment between two shards."""
    while not (found := busy_workers()):
        time.sleep(0.001)
    os.kill(found[0], signal.SIGKILL)


def busy_workers() -> list[int]:
    """Processes below this one that decode a shard."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat[1])

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return sorted(pid for pid, name in names.items() if b"_shard_task" in name and is_ours(pid))
