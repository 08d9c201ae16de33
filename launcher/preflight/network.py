"""Checks of the network: that the machines reach each other, their file systems, and S3."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from launcher.cloud_plan import CloudPlan
from launcher.instances import INSTANCES
from launcher.preflight.facts import Facts, FileSystem, Rule, SecurityGroup, Subnet
from launcher.preflight.findings import Finding, error, note, warning

Ports = tuple[int, int]
LUSTRE_PORTS: tuple[Ports, ...] = ((988, 988), (1018, 1023))
NFS_PORTS: tuple[Ports, ...] = ((2049, 2049),)
ALL_PORTS: tuple[Ports, ...] = ((0, 65535),)
ADDRESSES_PER_HOST = 2
ADDRESSES_PER_EFA_HOST = 5


@dataclass(frozen=True)
class Peer:
    """One side of a connection: the security groups it has, and where its addresses lie."""

    groups: frozenset[str]
    cidrs: tuple[str, ...]

    def rules(self, facts: Facts, *, inward: bool) -> list[Rule]:
        """What its groups let through, one way."""
        known = [facts.security_groups[name] for name in self.groups & set(facts.security_groups)]
        return [rule for group in known for rule in (group.inward if inward else group.outward)]


def check_network(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """Subnets, security groups, file systems, the way to S3; nothing for a job without a VPC."""
    vpc = plan.place.vpc
    if vpc is None:
        return
    subnets = {name: facts.subnets[name] for name in vpc.subnets if name in facts.subnets}
    machines = Peer(frozenset(vpc.security_groups), tuple(s.cidr for s in subnets.values()))
    if facts.knows("subnets"):
        yield from _missing("subnet", vpc.subnets, facts.subnets)
        yield from _addresses(plan, subnets)
    if facts.knows("security groups"):
        yield from _missing("security-group", vpc.security_groups, facts.security_groups)
        if plan.place.num_hosts > 1:
            yield from _talk(plan, facts, machines)
    yield from _one_vpc(plan, facts)
    for channel, source in plan.job.channels.items():
        system = source.fsx or source.efs
        if system is not None and facts.knows("file system", system.id):
            yield from _file_system(channel, plan, facts, machines)
    if facts.knows("subnets") and facts.knows("routes"):
        yield from _ways_out(subnets)


def _missing(check: str, wanted: Iterable[str], found: Iterable[str]) -> Iterator[Finding]:
    """What the job names and the region does not have."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        yield error(
            check,
            f"there is no {check.replace('-', ' ')} {', '.join(missing)} in this region",
            "SageMaker refuses the job",
            f"correct sagemaker.vpc.{check.replace('-', '_')}s",
        )


def _addresses(plan: CloudPlan, subnets: dict[str, Subnet]) -> Iterator[Finding]:
    needed = 0
    for group in plan.place.groups:
        machine = INSTANCES.get(group.instance_type)
        each = ADDRESSES_PER_EFA_HOST if machine and machine.efa else ADDRESSES_PER_HOST
        needed += each * group.instance_count
    free = sum(subnet.free_addresses for subnet in subnets.values())
    if subnets and free < needed:
        yield error(
            "free-addresses",
            f"{', '.join(subnets)} have {free} free addresses, {plan.place.num_hosts} machines "
            f"need {needed}",
            f"SageMaker wants {ADDRESSES_PER_HOST} for each machine, {ADDRESSES_PER_EFA_HOST} "
            "with EFA, and refuses the job",
            "give more or larger subnets, or delete unused network interfaces",
        )


def _one_vpc(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    assert plan.place.vpc is not None
    parts: dict[str, Subnet | SecurityGroup] = {**facts.subnets, **facts.security_groups}
    used = [*plan.place.vpc.subnets, *plan.place.vpc.security_groups]
    vpcs = {name: parts[name].vpc for name in used if name in parts}
    if len(set(vpcs.values())) > 1:
        yield error(
            "one-vpc",
            "; ".join(f"{name} is in {vpc}" for name, vpc in vpcs.items()),
            "a machine lies in one VPC, so SageMaker refuses the job",
            "give subnets and security groups of one VPC",
        )


def _talk(plan: CloudPlan, facts: Facts, machines: Peer) -> Iterator[Finding]:
    """Machines of a job must reach each other on every port, with EFA by every protocol."""
    names = ", ".join(sorted(machines.groups))
    blocked = [
        way
        for way, inward in (("inward", True), ("outward", False))
        if not _lets(machines.rules(facts, inward=inward), ALL_PORTS, machines)
    ]
    if blocked:
        yield error(
            "group-itself",
            f"{names} do not let all TCP ports through between their members "
            f"({' and '.join(blocked)})",
            "Ray, gloo and NCCL take ports as they come; the machines would wait for each other "
            "until the job fails",
            "add a rule for all traffic from (and to) the security group itself",
        )
        return
    machines_types = [INSTANCES.get(group.instance_type) for group in plan.place.groups]
    if any(machine and machine.efa and machine.gpu for machine in machines_types):
        for way, inward in (("inward", True), ("outward", False)):
            rules = machines.rules(facts, inward=inward)
            if not any(r.protocol == "-1" and r.groups & machines.groups for r in rules):
                yield warning(
                    "group-efa",
                    f"{names} have no {way} rule for all protocols that names the group itself",
                    "these types have EFA, which is no TCP and is not let through by address "
                    "ranges; NCCL would fail or go the slow way",
                    f"add an {way} rule for all traffic with the security group itself",
                )


def _file_system(channel: str, plan: CloudPlan, facts: Facts, machines: Peer) -> Iterator[Finding]:
    source = plan.job.channels[channel]
    ours = source.fsx or source.efs
    assert ours is not None
    kind, service = ("LUSTRE", "FSx for Lustre") if source.fsx else ("EFS", "EFS")
    system = facts.file_systems.get(ours.id)
    if system is None or system.kind != kind:
        other = f", it is {system.kind}" if system is not None else ""
        yield error(
            "file-system",
            f"{ours.id} of channel '{channel}' is no {service} file system of this region{other}",
            "the machines could not mount it, and the job fails",
            "correct its id, or make one with `rayasr fsx create`",
        )
        return
    if system.lifecycle not in (None, "AVAILABLE", "UPDATING", "available", "updating"):
        yield error(
            "file-system-available",
            f"{ours.id} of channel '{channel}' is {system.lifecycle}",
            "it cannot be mounted now",
            "wait until `rayasr fsx status` says AVAILABLE",
        )
    if source.fsx and system.mount_name not in (None, plan.mount_names.get(ours.id)):
        yield error(
            "mount-name",
            f"the MountName of {ours.id} is {system.mount_name}, the job says "
            f"{plan.mount_names.get(ours.id)}",
            "a folder of Lustre must begin with it, else the mount fails",
            f"set channels.{channel}.fsx.mount_name to {system.mount_name}, or leave it out",
        )
    yield from _place(ours.id, system, plan, facts)
    if facts.knows("security groups") and facts.knows("file system network", ours.id):
        yield from _ports(ours.id, system, facts, machines)


def _place(system_id: str, system: FileSystem, plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """The machines must be in the file system's VPC, and should be in its zone."""
    assert plan.place.vpc is not None
    theirs = [facts.subnets[name] for name in system.subnets if name in facts.subnets]
    ours = {name: facts.subnets[name] for name in plan.place.vpc.subnets if name in facts.subnets}
    vpcs, zones = {s.vpc for s in theirs}, {s.zone for s in theirs}
    if not theirs or not ours:
        return
    if elsewhere := [name for name, subnet in ours.items() if subnet.vpc not in vpcs]:
        yield error(
            "file-system-vpc",
            f"{system_id} is in {', '.join(sorted(vpcs))}, {', '.join(elsewhere)} is not",
            "the machines could not reach it",
            f"take subnets of that VPC: {', '.join(sorted(system.subnets))}",
        )
    elif far := [name for name, subnet in ours.items() if subnet.zone not in zones]:
        severity = error if len(far) == len(ours) else warning
        yield severity(
            "file-system-zone",
            f"{system_id} is in {', '.join(sorted(zones))}, {', '.join(far)} in "
            f"{', '.join(sorted({ours[name].zone for name in far}))}",
            "SageMaker wants the machines in the file system's zone; from another one every byte "
            "costs, and is slow",
            f"take only subnets of that zone, such as {', '.join(sorted(system.subnets))}",
        )


def _ports(system_id: str, system: FileSystem, facts: Facts, machines: Peer) -> Iterator[Finding]:
    """The ports of the mount, from both sides."""
    cidrs = tuple(facts.subnets[name].cidr for name in system.subnets if name in facts.subnets)
    server = Peer(system.security_groups or machines.groups, cidrs)
    lustre = system.kind == "LUSTRE"
    ports = LUSTRE_PORTS if lustre else NFS_PORTS
    ways = [
        ("inward of the file system", server.rules(facts, inward=True), machines),
        ("outward of the machines", machines.rules(facts, inward=False), server),
    ]
    if lustre:  # its servers call back
        ways.append(("inward of the machines", machines.rules(facts, inward=True), server))
    blocked = [way for way, rules, peer in ways if not _lets(rules, ports, peer)]
    if blocked:
        shown = " and ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ports)
        yield error(
            "file-system-ports",
            f"the security groups do not let TCP {shown} through to {system_id} "
            f"({', '.join(blocked)})",
            "the mount would hang until the job fails",
            f"add rules for TCP {shown} to {', '.join(sorted(server.groups | machines.groups))}",
        )


def _ways_out(subnets: dict[str, Subnet]) -> Iterator[Finding]:
    """S3 must be reached from every subnet; an internet gateway does not help."""
    blind = [name for name, subnet in subnets.items() if not _reaches(subnet, "s3")]
    if blind:
        public = any(subnets[name].way_out for name in blind)
        yield error(
            "s3-route",
            f"{', '.join(blind)} have no way to S3"
            f"{'; their internet gateway is no use, machines get no public address' * public}",
            "data, model and checkpoints would not get through, and the job fails",
            "add a gateway endpoint for S3 to the subnets' route tables (it costs nothing)",
        )
    others = ("ecr.api", "ecr.dkr", "logs")
    unreached = sorted(
        {name for name in others for subnet in subnets.values() if not _reaches(subnet, name)}
    )
    if unreached and not blind:
        yield note(
            "service-routes",
            f"there is no way from the subnets to {', '.join(unreached)}",
            "SageMaker pulls the image and writes the logs over its own network; only calls from "
            "inside the job would fail",
            "nothing, unless the job's own code calls AWS; then add interface endpoints or a NAT",
        )


def _reaches(subnet: Subnet, service: str) -> bool:
    outside = subnet.way_out is not None and not subnet.way_out.startswith("igw-")
    return outside or service in subnet.endpoints


def _lets(rules: list[Rule], ports: tuple[Ports, ...], peer: Peer) -> bool:
    """Whether rules let TCP through on all these ports, for every address of a peer."""
    blocks = peer.cidrs or ("",)
    return all(_covers(_for_peer(rules, peer, block), span) for block in blocks for span in ports)


def _for_peer(rules: list[Rule], peer: Peer, cidr: str) -> list[Rule]:
    return [
        rule
        for rule in rules
        if rule.protocol in ("-1", "tcp")
        and (rule.prefix_lists or rule.groups & peer.groups or _inside(cidr, rule.cidrs))
    ]


def _inside(cidr: str, ranges: tuple[str, ...]) -> bool:
    """Whether an address range is inside one of others."""
    if not cidr:
        return False
    block = ip_network(cidr)
    return any(
        block.version == wide.version and block.subnet_of(wide)  # type: ignore[arg-type]
        for wide in (ip_network(text, strict=False) for text in ranges)
    )


def _covers(rules: list[Rule], span: Ports) -> bool:
    """Whether the rules' port ranges, put together, hold a span."""
    reached = span[0]
    for rule in sorted(rules, key=lambda rule: rule.first_port):
        if rule.first_port <= reached <= rule.last_port:
            reached = rule.last_port + 1
    return reached > span[1]
