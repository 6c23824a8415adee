"""Socket addresses as people write them."""

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
