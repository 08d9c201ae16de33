"""Who the hosts of a job are, as the contract's files say: names, head, addresses, interface."""

import fcntl
import ipaddress
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayasr.errors import LaunchError

RESOURCE_CONFIG = "input/config/resourceconfig.json"
LONE_ADDRESS = "127.0.0.2"
"""For a single host without a network: Ray replaces 127.0.0.1 by an address that faces outward."""

_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
_MAX_PAUSE_S = 5.0

Lookup = Callable[[str], str]
"""A host's name to its IPv4 address; raises OSError as long as it is not known."""


@dataclass(frozen=True)
class Topology:
    """The hosts of a job, in natural order (algo-2 before algo-10), and which one this is."""

    hosts: tuple[str, ...]
    this: str
    head: str
    groups: Mapping[str, tuple[str, ...]]  # instance groups, hosts in natural order
    instance_type: str | None  # this host's
    interface: str | None  # as the service names it; it may not exist here

    @property
    def is_head(self) -> bool:
        """Whether this host leads."""
        return self.this == self.head

    @property
    def workers(self) -> tuple[str, ...]:
        """All hosts but the head."""
        return tuple(host for host in self.hosts if host != self.head)

    def with_head_group(self, group: str | None) -> "Topology":
        """The same hosts led by the first one of a group; raises LaunchError."""
        if group is None:
            return self
        if not self.groups.get(group):
            raise LaunchError(
                f"head_group '{group}' has no machine here; there are the groups: "
                f"{', '.join(self.groups) or 'none'}"
            )
        return replace(self, head=self.groups[group][0])


def read_topology(root: str | Path) -> Topology:
    """Read the hosts from a contract folder; the first host leads; raises LaunchError."""
    path = Path(root) / RESOURCE_CONFIG
    try:
        content = json.loads(path.read_bytes())
        return _parse(content)
    except OSError as error:
        raise LaunchError(
            f"cannot read {path} ({error.strerror}): `train` runs on the machines of a job, which "
            "have this file; start jobs with `rayasr launch`"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchError(
            f"{path} does not name the job's hosts as SageMaker does ({type(error).__name__}: "
            f"{error}); the emulator and SageMaker write it themselves"
        ) from error


def _parse(content: dict[str, Any]) -> Topology:
    hosts = tuple(sorted(map(str, content["hosts"]), key=_natural))
    this = str(content["current_host"])
    if this not in hosts:
        raise ValueError(f"current_host '{this}' is not one of the hosts")
    groups = {}
    instance_type = content.get("current_instance_type")
    for group in content.get("instance_groups") or ():
        members = tuple(sorted(map(str, group["hosts"]), key=_natural))
        groups[str(group["instance_group_name"])] = members
        if this in members:
            instance_type = group.get("instance_type", instance_type)
    interface = content.get("network_interface_name")
    return Topology(hosts, this, hosts[0], groups, instance_type, interface)


def _natural(name: str) -> list[str | int]:
    """Sorts algo-2 before algo-10; the service sorts as text, and groups not at all."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def make_lookup(given: str | None) -> Lookup:
    """How names become addresses: by the resolver, or from `algo-1=127.0.0.2,algo-2=…`.

    `given` may also be `@FILE`, a file with such a text, which is read again at each look. Raises
    LaunchError.
    """
    if given is None:
        return socket.gethostbyname
    if given.startswith("@"):
        path = Path(given[1:])
        return lambda host: _pick(path.read_text(encoding="utf-8").strip(), host)
    for entry in given.split(","):
        _parse_entry(entry)
    return lambda host: _pick(given, host)


def _pick(text: str, host: str) -> str:
    addresses = dict(_parse_entry(entry) for entry in text.split(",") if entry)
    if host not in addresses:
        raise OSError(f"{host} has no address yet")
    return addresses[host]


def _parse_entry(entry: str) -> tuple[str, str]:
    host, _, address = entry.partition("=")
    try:
        return host, str(ipaddress.IPv4Address(address))
    except ValueError:
        raise LaunchError(
            f"RAYASR_HOST_ADDRESSES: '{entry}' is not HOST=ADDRESS; write "
            "algo-1=127.0.0.2,algo-2=127.0.0.3"
        ) from None


def wait_for_address(
    host: str, lookup: Lookup, deadline: float, pause: Callable[[float], None]
) -> str:
    """Look a name up until it resolves, at most until `deadline` (monotonic); raises LaunchError.

    A host's name may come into being some time after the host. `pause` sleeps, and may raise.
    """
    pause_s = 0.1
    while True:
        try:
            return lookup(host)
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() + pause_s > deadline:
            raise LaunchError(
                f"the name {host} did not resolve in time ({reason}); see whether that host has "
                "started, and whether the VPC resolves names (enableDnsSupport)"
            )
        pause(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


def own_address(
    topology: Topology, lookup: Lookup, deadline: float, pause: Callable[[float], None]
) -> str:
    """The address under which the other hosts reach this one; raises LaunchError.

    The named interface is asked first: a container's own name may stand for 127.0.0.1.
    """
    address = interface_address(topology.interface)
    if address is not None and not _is_loopback(address):
        return address
    if len(topology.hosts) == 1:
        return LONE_ADDRESS
    address = wait_for_address(topology.this, lookup, deadline, pause)
    if _is_loopback(address):
        raise LaunchError(
            f"{topology.this} is {address} to itself, where no other host can reach it, and the "
            f"interface {topology.interface} has no address; look at the job's VPC"
        )
    return address


def find_interface(named: str | None, address: str) -> str | None:
    """The interface for NCCL and Gloo: the named one if it exists here, else that of `address`."""
    names = [name for _, name in socket.if_nameindex()]
    if named in names:
        return named
    return next((name for name in names if interface_address(name) == address), None)


def interface_address(name: str | None) -> str | None:
    """The IPv4 address of a network interface, None where there is none."""
    if not name:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", name.encode()[:15])
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _is_loopback(address: str) -> bool:
    return ipaddress.IPv4Address(address).is_loopback
