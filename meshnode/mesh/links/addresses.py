"""Socket addresses as people write them."""


def format_address(address: object) -> str:
    """Return a socket address as ``host:port``, IPv6 in brackets."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)
