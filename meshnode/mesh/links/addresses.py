"""Socket addresses as people write them."""

from typing import NamedTuple

import trio

from meshnode.mesh.sockets import network_of


def format_address(address: object) -> str:
    """Return a socket address as ``host:port``, IPv6 in brackets."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)


class PeerAddress(NamedTuple):
    """The other end of a connection: as people write it, and on whose account it is."""

    text: str
    holder: str


def peer_address(stream: trio.SocketStream) -> PeerAddress:
    """Return the address of the other end, or what to say when it is gone already."""
    try:
        address = stream.socket.getpeername()
    except OSError:  # the peer reset it between accept and now; the first read will say so
        return PeerAddress("(already gone)", "")
    return PeerAddress(format_address(address), network_of(str(address[0])))
