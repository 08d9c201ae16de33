"""Asks EC2, FSx and EFS about subnets, security groups, routes and file systems."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from launcher.preflight.facts import FileSystem, Rule, SecurityGroup, Subnet

Json = dict[str, Any]

_WAYS_OUT = (
    "NatGatewayId",
    "TransitGatewayId",
    "NetworkInterfaceId",
    "InstanceId",
    "VpcPeeringConnectionId",
    "GatewayId",
    "CoreNetworkArn",
)


def find_offers(ec2: Any, types: Iterable[str]) -> dict[str, frozenset[str]]:
    """The zones in which EC2 offers each of SageMaker's instance types."""
    names = [name.removeprefix("ml.") for name in types]
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": names}]
    )
    zones: dict[str, set[str]] = {}
    for page in pages:
        for offer in page["InstanceTypeOfferings"]:
            zones.setdefault(f"ml.{offer['InstanceType']}", set()).add(offer["Location"])
    return {name: frozenset(found) for name, found in zones.items()}


def find_subnets(ec2: Any, ids: Iterable[str]) -> dict[str, Subnet]:
    """The subnets that exist, without their routes."""
    # By a filter: asked by id, one that is missing would hide all others.
    found = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": sorted(ids)}])["Subnets"]
    return {
        subnet["SubnetId"]: Subnet(
            vpc=subnet["VpcId"],
            zone=subnet["AvailabilityZone"],
            cidr=subnet["CidrBlock"],
            free_addresses=subnet["AvailableIpAddressCount"],
        )
        for subnet in found
    }


def add_routes(ec2: Any, subnets: Mapping[str, Subnet]) -> dict[str, Subnet]:
    """The subnets with where their traffic can go."""
    vpcs = sorted({subnet.vpc for subnet in subnets.values()})
    of_vpcs = [{"Name": "vpc-id", "Values": vpcs}]
    tables = _all(ec2, "describe_route_tables", "RouteTables", of_vpcs)
    endpoints = _all(ec2, "describe_vpc_endpoints", "VpcEndpoints", of_vpcs)
    routed = {}
    for name, subnet in subnets.items():
        table = _table_of(name, subnet, tables)
        routed[name] = replace(
            subnet,
            way_out=_way_out(table),
            endpoints=frozenset(_services(subnet, table, endpoints)),
        )
    return routed


def find_groups(ec2: Any, ids: Iterable[str]) -> dict[str, SecurityGroup]:
    """The security groups that exist."""
    filters = [{"Name": "group-id", "Values": sorted(ids)}]
    return {
        group["GroupId"]: SecurityGroup(
            vpc=group["VpcId"],
            inward=tuple(_rule(rule) for rule in group["IpPermissions"]),
            outward=tuple(_rule(rule) for rule in group["IpPermissionsEgress"]),
        )
        for group in _all(ec2, "describe_security_groups", "SecurityGroups", filters)
    }


def find_fsx(fsx: Any, system_id: str) -> FileSystem | None:
    """A file system of FSx; None where there is none."""
    try:
        found = fsx.describe_file_systems(FileSystemIds=[system_id])["FileSystems"]
    except fsx.exceptions.FileSystemNotFound:
        return None
    if not found:
        return None
    return FileSystem(
        kind=found[0]["FileSystemType"],
        lifecycle=found[0].get("Lifecycle"),
        subnets=frozenset(found[0]["SubnetIds"]),
        mount_name=found[0].get("LustreConfiguration", {}).get("MountName"),
        interfaces=tuple(found[0].get("NetworkInterfaceIds", ())),
    )


def find_efs(efs: Any, system_id: str) -> FileSystem | None:
    """A file system of EFS, with its mount targets; None where there is none."""
    try:
        found = efs.describe_file_systems(FileSystemId=system_id)["FileSystems"]
    except efs.exceptions.FileSystemNotFound:
        return None
    targets = efs.describe_mount_targets(FileSystemId=system_id)["MountTargets"]
    return FileSystem(
        kind="EFS",
        lifecycle=found[0]["LifeCycleState"],
        subnets=frozenset(target["SubnetId"] for target in targets),
        interfaces=tuple(target["NetworkInterfaceId"] for target in targets),
    )


def find_interface_groups(ec2: Any, interfaces: Iterable[str]) -> frozenset[str]:
    """The security groups of network interfaces."""
    filters = [{"Name": "network-interface-id", "Values": sorted(interfaces)}]
    found = _all(ec2, "describe_network_interfaces", "NetworkInterfaces", filters)
    return frozenset(group["GroupId"] for interface in found for group in interface["Groups"])


def _all(client: Any, operation: str, key: str, filters: list[Json]) -> list[Json]:
    """All pages of a describe call."""
    pages = client.get_paginator(operation).paginate(Filters=filters)
    return [item for page in pages for item in page[key]]


def _rule(permission: Json) -> Rule:
    protocol = str(permission["IpProtocol"])
    everything = protocol == "-1"
    return Rule(
        protocol="tcp" if protocol == "6" else protocol,
        first_port=0 if everything else permission.get("FromPort", 0),
        last_port=65535 if everything else permission.get("ToPort", 65535),
        groups=frozenset(pair["GroupId"] for pair in permission.get("UserIdGroupPairs", ())),
        cidrs=tuple(block["CidrIp"] for block in permission.get("IpRanges", ())),
        prefix_lists=bool(permission.get("PrefixListIds")),
    )


def _table_of(name: str, subnet: Subnet, tables: list[Json]) -> Json:
    """The route table of a subnet: its own, else its VPC's main one."""
    main: Json = {}
    for table in tables:
        if table["VpcId"] != subnet.vpc:
            continue
        for association in table["Associations"]:
            if association.get("SubnetId") == name:
                return table
            if association.get("Main"):
                main = table
    return main


def _way_out(table: Json) -> str | None:
    """What the default route leads to; None without one, or to something that is gone."""
    for route in table.get("Routes", ()):
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State") != "blackhole":
            return next((str(route[key]) for key in _WAYS_OUT if route.get(key)), None)
    return None


def _services(subnet: Subnet, table: Json, endpoints: list[Json]) -> Iterable[str]:
    """The AWS services that endpoints of the VPC lead to: s3, ecr.api, …"""
    for endpoint in endpoints:
        if endpoint["VpcId"] != subnet.vpc or endpoint["State"].lower() != "available":
            continue
        gateway = endpoint.get("VpcEndpointType", "Gateway") == "Gateway"
        if not gateway or table.get("RouteTableId") in endpoint.get("RouteTableIds", ()):
            # com.amazonaws.eu-west-1.ecr.api, cn.com.amazonaws.cn-north-1.ecr.api
            yield endpoint["ServiceName"].partition("amazonaws.")[2].partition(".")[2]
