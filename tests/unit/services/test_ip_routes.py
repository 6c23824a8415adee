"""Which node an IP packet goes to."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.protocol.routing import ServiceAdvertisement
from meshnode.services.ip_routes import (
    MAX_OF_ONE,
    MAX_ROUTES,
    RouteTable,
    advertised_tags,
    destination_of,
    path_costs,
)


def advert(node: str, tags: dict[str, str] | None) -> ServiceAdvertisement:
    return ServiceAdvertisement(
        node_id=node,
        service="lan",
        time="2026-11-22T03:00:00Z",
        conn_type=0,
        tags=tags,
        work_types=None,
    )


def router(node: str, local: str, *routes: str, network: str = "lan") -> ServiceAdvertisement:
    tags = advertised_tags(network, ip_network(local), [ip_network(r) for r in routes])
    return advert(node, tags)


def test_a_router_advertises_as_receptors_does():
    tags = advertised_tags("lan", ip_network("10.9.1.0/30"), [ip_network("192.168.7.0/24")])
    assert tags == {
        "type": "IP Router",
        "network": "lan",
        "route_local": "10.9.1.0/30",
        "route_0": "192.168.7.0/24",
    }


def table(*adverts: ServiceAdvertisement, **costs: float) -> RouteTable:
    return RouteTable.of(adverts, "lan", "foo", costs)


def find(routes: RouteTable, address: str) -> str | None:
    return routes.find(ip_address(address))


def test_the_narrowest_network_decides_then_the_cost_then_the_name():
    routes = table(
        router("wide", "10.9.1.0/30", "10.0.0.0/8"),
        router("narrow", "10.9.2.0/30", "10.7.0.0/16"),
        router("dear", "10.9.3.0/30", "10.7.7.0/24"),
        router("cheap", "10.9.4.0/30", "10.7.7.0/24"),
        router("equal", "10.9.5.0/30", "10.7.7.0/24"),
        wide=1,
        narrow=5,
        dear=3,
        cheap=2,
        equal=2,
    )
    assert find(routes, "10.1.1.1") == "wide"
    assert find(routes, "10.7.1.1") == "narrow"
    assert find(routes, "10.7.7.1") == "cheap"
    assert find(routes, "10.9.3.1") == "dear"
    assert find(routes, "11.0.0.1") is None
    assert find(routes, "::1") is None


def test_only_routers_of_the_same_network_count_and_not_ourselves():
    routes = table(
        router("foo", "10.9.1.0/30"),
        router("other", "10.9.2.0/30", network="wan"),
        advert("plain", None),
        advert("proxy", {"type": "UDP Proxy", "network": "lan", "route_local": "10.9.3.0/30"}),
        router("bar", "10.9.4.0/30"),
    )
    assert routes.nodes == {"bar"}
    assert routes.networks == {ip_network("10.9.4.0/30")}


def test_what_is_no_network_is_ignored_and_the_rest_of_the_router_counts():
    tags = {"type": "IP Router", "network": "lan", "route_local": "junk", "route_9": "fd00::5/64"}
    assert find(table(advert("bar", tags)), "fd00::1") == "bar"


def test_a_flood_of_routes_leaves_room_for_those_of_others():
    """The narrowest network decides, so those of a hostile node would always come first."""
    hostile = [f"10.{n // 256}.{n % 256}.7/32" for n in range(5000)]
    routes = table(
        router("mallory", "10.9.1.0/30", *hostile),
        router("mallory", "10.9.1.4/30", *[f"11.0.{n % 256}.7/32" for n in range(256)]),
        *(router(f"node{n}", f"10.200.{n}.0/24") for n in range(200)),
    )
    assert sum(node == "mallory" for _, node in routes.routes) == MAX_OF_ONE
    assert find(routes, "10.200.199.1") == "node199"


def test_the_routes_of_many_nodes_are_bounded():
    adverts = [
        router(f"node{n}", f"10.9.{n}.0/30", *[f"10.{n}.{m}.0/24" for m in range(256)])
        for n in range(32)
    ]
    assert len(table(*adverts).routes) == MAX_ROUTES


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["10.0.0.0", "10.7.0.0", "10.7.7.0", "10.7.7.7", "fd00::", "fd00:7::"]),
            st.integers(0, 128),
            st.sampled_from("abc"),
        ),
        max_size=12,
    ),
    st.sampled_from(["10.7.7.7", "10.7.7.8", "10.7.8.1", "11.1.1.1", "fd00:7::1", "fd00::1", "::"]),
)
def test_a_destination_is_found_as_by_a_look_at_every_route(routes, destination):
    adverts = []
    for address, length, node in routes:
        most = 32 if "." in address else 128
        network = ip_network(f"{address}/{min(length, most)}", strict=False)
        tags = {"type": "IP Router", "network": "lan", "route_0": str(network)}
        adverts.append(advert(node, tags))
    found = table(*adverts)
    wanted = ip_address(destination)
    by_looking = [
        node
        for network, node in found.routes
        if network.version == wanted.version and wanted in network
    ]
    assert found.find(wanted) == (by_looking[0] if by_looking else None)


@pytest.mark.parametrize(
    ("packet", "address"),
    [
        (b"\x45" + bytes(15) + b"\x0a\x09\x01\x01", IPv4Address("10.9.1.1")),
        (b"\x60" + bytes(38) + b"\x01", IPv6Address("::1")),
        (b"\x45" + bytes(18), None),
        (b"\x60" + bytes(38), None),
        (b"\x20" + bytes(60), None),
        (b"", None),
    ],
)
def test_the_destination_stands_in_the_packet(packet: bytes, address):
    assert destination_of(packet) == address


@given(st.binary(max_size=64))
def test_no_bytes_have_more_than_a_destination(packet: bytes):
    destination_of(packet)


def test_the_cost_of_a_way_is_the_sum_of_its_cheapest_links():
    known = {"a": {"b": 1.0, "c": 5.0}, "b": {"a": 1.0, "c": 2.5}, "c": {}, "z": {"a": 1.0}}
    assert path_costs(known, "a") == {"a": 0.0, "b": 1.0, "c": 3.5}
