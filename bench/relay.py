"""The floor of forwarding: a trio process that parses lengths and passes the frames on.

``python -m bench.relay PORT`` takes two connections and copies from the first to the second. It
knows no routes, counts no hops, queues nothing and copies nothing: it reads into one buffer, and
sends a view of that.
"""

import sys

import trio

BUFFER = 1024 * 1024
LENGTH_BYTES = 2


async def main(port: int) -> None:
    listener, *_ = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with await listener.accept() as source, await listener.accept() as sink:
        view = memoryview(bytearray(BUFFER))
        filled = 0
        while count := await source.socket.recv_into(view[filled:]):
            filled += count
            end = whole_frames(view[:filled])
            await sink.send_all(view[:end])
            view[: filled - end] = view[end:filled]
            filled -= end


def whole_frames(view: memoryview) -> int:
    """Return where the last frame that is complete ends."""
    end = 0
    while len(view) - end >= LENGTH_BYTES:
        after = end + LENGTH_BYTES + (view[end] | view[end + 1] << 8)
        if after > len(view):
            break
        end = after
    return end


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
