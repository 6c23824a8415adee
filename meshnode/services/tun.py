"""A TUN device: a network interface whose packets are read from and written to a descriptor."""

import fcntl
import os
import socket
import struct
from contextlib import ExitStack
from typing import Self

import trio

DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA
"""ioctl number of linux/if_tun.h: make an interface of this descriptor."""

_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
"""IFF_TUN | IFF_NO_PI: IP packets, and nothing before them."""

PACKET_SIZE = 65536
"""Bytes asked for at a time: no IP packet is larger."""


class Tun:
    """An open TUN interface. It is gone, addresses and routes and all, once it is closed."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        self.index = socket.if_nametoindex(name)

    @classmethod
    def open(cls, name: str = "") -> Self:
        """Make an interface; without a name the kernel chooses one (tun0, …).

        Raises:
            OSError: this process may not, or the name is taken.
        """
        with ExitStack() as undo:
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            request = struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER)
            answer = fcntl.ioctl(descriptor, _TUNSETIFF, request)
            tun = cls(descriptor, answer[:16].rstrip(b"\0").decode())
            undo.pop_all()
        return tun

    async def receive(self) -> bytes:
        """Wait for a packet that the kernel sends out by this interface.

        Raises:
            OSError: the interface is gone.
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, PACKET_SIZE)
            except BlockingIOError:
                continue

    def send(self, packet: bytes) -> None:
        """Give the kernel a packet that comes in by this interface.

        Raises:
            OSError: it takes no such packet, or none now.
        """
        os.write(self._descriptor, packet)

    def close(self) -> None:
        """Close it, if it is not closed yet."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
