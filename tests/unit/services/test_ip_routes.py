"""Which node an IP packet goes to."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.protocol.messages import ServiceAdvertisement
from meshnode.services.ip_routes import RouteTable, advertised_tags, destination_of, path_costs


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


def test_a_flood_of_routes_is_bounded():
    routes = [f"10.{n // 256}.{n % 256}.0/24" for n in range(5000)]
    assert len(table(router("bar", "10.9.1.0/30", *routes)).routes) == 4096


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
