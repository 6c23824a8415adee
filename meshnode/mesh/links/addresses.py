"""Socket addresses as people write them."""

import ipaddress

import trio


def format_address(address: object) -> str:
    """Return a socket address as ``host:port``, IPv6 in brackets."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)


def peer_address(stream: trio.SocketStream) -> str:
    """Return the address of the other end, or what to say when it is gone already."""
    try:
        return format_address(stream.socket.getpeername())
    except OSError:  # the peer reset it between accept and now; the first read will say so
        return "(already gone)"


def network_of(host: str) -> str:
    """Return on whose account an address is: an IPv4 address itself, and of IPv6 the /64 network.

    Whoever has an address of IPv6 has the 2^64 of its network.
    """
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
