"""Hosts, head, addresses and interface, from the files and the network of this machine."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.host import topology
from launcher.host.topology import (
    LONE_ADDRESS,
    Topology,
    find_interface,
    interface_address,
    make_lookup,
    own_address,
    read_topology,
    wait_for_address,
)
from rayasr.errors import LaunchError

REAL = {  # one that a user of SageMaker has shown, with ten hosts and groups made of it
    "current_host": "algo-10",
    "current_instance_type": "ml.g4dn.xlarge",
    "current_group_name": "gpu",
    "hosts": ["algo-1", "algo-10", "algo-2", "algo-3"],
    "instance_groups": [
        {"instance_group_name": "cpu", "instance_type": "ml.c5.xlarge", "hosts": ["algo-2"]},
        {
            "instance_group_name": "gpu",
            "instance_type": "ml.g4dn.xlarge",
            "hosts": ["algo-3", "algo-10", "algo-1"],
        },
    ],
    "network_interface_name": "eth0",
}


def write(root: Path, content: Any) -> Path:
    path = root / "input/config/resourceconfig.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_hosts_come_in_natural_order(tmp_path: Path) -> None:
    found = read_topology(write(tmp_path, REAL))
    assert found.hosts == ("algo-1", "algo-2", "algo-3", "algo-10")
    assert (found.this, found.head, found.is_head) == ("algo-10", "algo-1", False)
    assert found.workers == ("algo-2", "algo-3", "algo-10")
    assert (found.instance_type, found.interface) == ("ml.g4dn.xlarge", "eth0")


def test_head_is_the_first_host_of_its_group(tmp_path: Path) -> None:
    found = read_topology(write(tmp_path, REAL))
    assert found.with_head_group("cpu").head == "algo-2"
    assert found.with_head_group("gpu").head == "algo-1"
    assert found.with_head_group(None) is found
    with pytest.raises(LaunchError, match=r"head_group 'tpu' has no machine here.*cpu, gpu"):
        found.with_head_group("tpu")


def test_what_the_sdks_local_mode_writes(tmp_path: Path) -> None:
    content = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "ethwe"}
    found = read_topology(write(tmp_path, content))
    assert found.is_head
    assert (found.groups, found.instance_type, found.workers) == ({}, None, ())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", {"hosts": 3}, {"hosts": ["algo-1"], "current_host": "algo-2"}]
)
def test_a_file_that_names_no_hosts(tmp_path: Path, content: Any) -> None:
    with pytest.raises(LaunchError, match=r"resourceconfig\.json does not name the job's hosts"):
        read_topology(write(tmp_path, content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="start jobs with `rayasr launch`"):
        read_topology(tmp_path)


def test_given_addresses() -> None:
    lookup = make_lookup("algo-1=127.0.0.2,algo-2=127.0.0.3")
    assert lookup("algo-2") == "127.0.0.3"
    with pytest.raises(OSError, match="algo-3 has no address yet"):
        lookup("algo-3")


@pytest.mark.parametrize("given", ["algo-1", "algo-1=host", "algo-1=127.0.0.2,", ""])
def test_wrong_addresses(given: str) -> None:
    with pytest.raises(LaunchError, match="is not HOST=ADDRESS"):
        make_lookup(given)


def test_addresses_of_a_file_may_come_late(tmp_path: Path) -> None:
    path = tmp_path / "addresses"
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            path.write_text("algo-1=127.0.0.2\n")

    lookup = make_lookup(f"@{path}")
    assert wait_for_address("algo-1", lookup, time.monotonic() + 60, nap) == "127.0.0.2"
    assert naps == [0.1, 0.2, 0.4]


def test_name_that_never_resolves() -> None:
    def lookup(_: str) -> str:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(LaunchError, match=r"the name algo-2 did not resolve in time \(Name or"):
        wait_for_address("algo-2", lookup, time.monotonic() + 0.05, time.sleep)


def of(*hosts: str, interface: str | None = None) -> Topology:
    return Topology(hosts, hosts[0], hosts[0], {}, None, interface)


def test_own_address_is_the_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name may stand for 127.0.0.1 in the host's own eyes."""
    monkeypatch.setattr(topology, "interface_address", {"eth0": "10.0.0.7"}.get)
    found = of("algo-1", "algo-2", interface="eth0")
    assert own_address(found, lambda _: "127.0.0.1", 0, time.sleep) == "10.0.0.7"


def test_own_address_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "interface_address", {"eth0": "10.0.0.7"}.get)
    found = of("algo-1", "algo-2", interface="ethwe")
    assert own_address(found, lambda _: "10.0.0.8", 0, time.sleep) == "10.0.0.8"
    with pytest.raises(LaunchError, match=r"algo-1 is 127\.0\.1\.1 to itself"):
        own_address(found, lambda _: "127.0.1.1", 0, time.sleep)


def test_own_address_of_a_single_host_needs_no_network() -> None:
    assert own_address(of("algo-1"), lambda _: "127.0.0.1", 0, time.sleep) == LONE_ADDRESS


def test_interface_is_one_that_exists() -> None:
    assert find_interface("lo", "10.0.0.7") == "lo"
    assert find_interface("ethwe", "127.0.0.1") == "lo"  # by its address
    assert find_interface("ethwe", "10.255.255.7") is None
    assert interface_address("lo") == "127.0.0.1"
    assert interface_address("ethwe") is None
    assert interface_address(None) is None
