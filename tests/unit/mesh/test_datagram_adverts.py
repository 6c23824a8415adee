"""A datagram service is advertised for as long as it is open, if it has tags."""

import trio
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


async def test_who_waits_for_changes_hears_of_routes_and_of_services(autojump_clock):
    async with line("foo", "bar") as (foo, bar), trio.open_nursery() as nursery:
        seen: list[tuple[list[str], list[str]]] = []

        async def watch() -> None:
            while True:
                await foo.wait_changed()
                status = foo.status()
                seen.append((list(status.routes), [a.service for a in status.advertisements]))

        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        socket = bar.open_datagrams("dns", tags={})
        await trio.sleep(1)
        socket.close()
        await trio.sleep(1)
        await bar.aclose()
        await trio.sleep(1)
        assert seen == [(["bar"], ["dns"]), (["bar"], []), ([], [])]
        nursery.cancel_scope.cancel()
