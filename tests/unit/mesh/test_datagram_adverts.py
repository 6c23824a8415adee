"""A datagram service is advertised for as long as it is open, if it has tags."""

from mesh_helpers import line


def advertised(node) -> dict[str, tuple[int, dict[str, str] | None]]:
    return {a.service: (a.conn_type, a.tags) for a in node.status().advertisements}


async def test_a_datagram_service_with_tags_is_advertised_until_it_is_closed(autojump_clock):
    async with line("foo", "bar") as (foo, bar):
        socket = bar.open_datagrams("dns", tags={"type": "UDP Proxy"})
        quiet = bar.open_datagrams("quiet")
        await foo.ping("bar")
        assert advertised(foo) == {"dns": (0, {"type": "UDP Proxy"})}
        socket.close()
        socket.close()
        quiet.close()
        await foo.ping("bar")
        assert advertised(foo) == {}
