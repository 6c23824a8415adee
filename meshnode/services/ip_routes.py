"""Which node an IP packet goes to: what other ip-routers of one network advertise, as a table."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from meshnode.config.service_directives import Network
from meshnode.protocol.routing import ServiceAdvertisement

ROUTER_TYPE = "IP Router"
"""The tag ``type`` by which ip-routers know each other (receptor's)."""

MAX_ROUTES = 4096
"""Routes of one network that are taken over; peers choose what they advertise, and each becomes a
route of the kernel."""

MAX_OF_ONE = 512
"""Routes of one node that are taken over, so that it leaves room for those of others."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def advertised_tags(network: str, local: Network, routes: Iterable[Network]) -> dict[str, str]:
    """Return the tags with which receptor's ip-routers say what they lead to."""
    tags = {"type": ROUTER_TYPE, "network": network, "route_local": str(local)}
    return tags | {f"route_{number}": str(route) for number, route in enumerate(routes)}


_Length = tuple[int, int, dict[int, str]]
"""Version of IP, bits of an address that are the host's, and which node leads to each network."""


@dataclass(frozen=True, slots=True)
class RouteTable:
    """What the other routers of a network lead to, the narrowest networks first."""

    routes: tuple[tuple[Network, str], ...] = ()
    nodes: frozenset[str] = field(init=False)
    """Every other router of the network."""
    _lengths: tuple[_Length, ...] = field(init=False, repr=False, compare=False)
    """The routes by the length of their prefix: a packet costs a look for each, however many routes
    others advertise."""

    def __post_init__(self) -> None:
        """Sort the routes by length, once for all packets."""
        found: dict[tuple[int, int], dict[int, str]] = {}
        for network, node in self.routes:
            host_bits = network.max_prefixlen - network.prefixlen
            of_length = found.setdefault((network.version, host_bits), {})
            of_length.setdefault(int(network.network_address) >> host_bits, node)
        lengths = tuple((version, bits, nodes) for (version, bits), nodes in found.items())
        object.__setattr__(self, "_lengths", lengths)
        object.__setattr__(self, "nodes", frozenset(node for _, node in self.routes))

    @classmethod
    def of(
        cls,
        adverts: Iterable[ServiceAdvertisement],
        network: str,
        own_id: str,
        costs: Mapping[str, float],
    ) -> "RouteTable":
        """Return the table that advertisements make.

        Args:
            adverts: of nodes that can be reached.
            network: the ``networkname`` that routers share.
            own_id: our node, which is no destination.
            costs: cost of the way to each node; among routes to one network the cheapest counts.
        """
        of_node: dict[str, set[Network]] = {}
        for advert in adverts:
            if advert.node_id != own_id and _is_router(advert, network):
                own = of_node.setdefault(advert.node_id, set())
                for route in _routes(advert.tags or {}):
                    if len(own) >= MAX_OF_ONE:
                        break
                    own.add(route)
        found = [(route, node) for node, routes in of_node.items() for route in routes]
        found.sort(key=lambda item: (-item[0].prefixlen, costs.get(item[1], inf), item[1]))
        return cls(tuple(found[:MAX_ROUTES]))

    @property
    def networks(self) -> frozenset[Network]:
        """Every network that there is a route to."""
        return frozenset(network for network, _ in self.routes)

    def find(self, destination: Address) -> str | None:
        """Return the node that leads to an address: of the narrowest network, the cheapest."""
        version, number = destination.version, int(destination)
        for of_version, host_bits, nodes in self._lengths:
            if of_version == version and (node := nodes.get(number >> host_bits)) is not None:
                return node
        return None


def _is_router(advert: ServiceAdvertisement, network: str) -> bool:
    tags = advert.tags or {}
    return tags.get("type") == ROUTER_TYPE and tags.get("network") == network


def _routes(tags: Mapping[str, str]) -> Iterable[Network]:
    for key, value in sorted(tags.items()):
        if key.startswith("route"):
            try:
                yield ipaddress.ip_network(value, strict=False)
            except ValueError:
                continue  # receptor ignores such a route too: it is the other node's mistake


def destination_of(packet: bytes) -> Address | None:
    """Return where an IPv4 or IPv6 packet goes, or None if it is neither."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return ipaddress.IPv4Address(packet[16:20])
    if version == 6 and len(packet) >= 40:
        return ipaddress.IPv6Address(packet[24:40])
    return None


def path_costs(known: Mapping[str, Mapping[str, float]], source: str) -> dict[str, float]:
    """Return the cost of the cheapest way to each node that can be reached."""
    costs: dict[str, float] = {}
    waiting = [(0.0, source)]
    while waiting:
        cost, node = heappop(waiting)
        if node in costs:
            continue
        costs[node] = cost
        for peer, more in known.get(node, {}).items():
            if peer not in costs:
                heappush(waiting, (cost + more, peer))
    return costs
