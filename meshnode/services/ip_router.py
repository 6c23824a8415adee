"""``ip-router``: IP networks of several nodes joined over the mesh, by a TUN interface on each.

A router advertises the networks that it leads to, as tags of a datagram service. A packet that
the kernel sends into the interface goes to the router that leads to its destination, as one
datagram of the mesh, and out of the interface there (receptor's ip_router.go).
"""

import errno
import os

import trio

from meshnode.config.service_directives import IpRouter, Network
from meshnode.errors import MeshnodeError
from meshnode.logs import subject_logger
from meshnode.mesh.datagrams import DatagramSocket
from meshnode.mesh.mesh import Mesh, MeshStatus
from meshnode.net.sockets import CannotListen
from meshnode.services import interface
from meshnode.services.base import DropCount, open_datagrams
from meshnode.services.interface import DEVICE, Tun
from meshnode.services.ip_routes import RouteTable, advertised_tags, destination_of, path_costs

SETTLE = 0.5
"""Seconds after a change of the mesh before its routes are taken over. Changes come in swarms, and
each look costs time in proportion to all that the mesh advertises."""

REOPEN_PAUSE = 5.0
"""Seconds before an interface that somebody has removed is made again."""

_TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})
"""Errors of the kernel that say nothing of a route."""


class IpRouterService:
    """One router of a network."""

    def __init__(self, directive: IpRouter, mesh: Mesh) -> None:
        self._directive = directive
        self._mesh = mesh
        self._network = directive.networkname
        self._log = subject_logger("ip-router", directive.networkname)
        self._table = RouteTable()
        self._kernel: set[Network] = set()
        """Networks that we lead into the interface."""
        self.drops = DropCount(self._log)

    @property
    def table(self) -> RouteTable:
        """Which node leads where, now."""
        return self._table

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Route until cancelled; see Service."""
        wanted = self._directive
        tags = advertised_tags(self._network, wanted.localnet, wanted.routes)
        tun = self._open_interface()
        try:
            with open_datagrams(self._mesh, self._network, tags, "networkname") as near:
                task_status.started()
                while True:
                    await self._route(tun, near)
                    tun.close()
                    tun = await self._open_again()
        finally:
            tun.close()

    async def _route(self, tun: Tun, near: DatagramSocket) -> None:
        """Route by an interface until it is gone: somebody may remove it."""
        self._log.info("interface %s routes for %s", tun.name, self._directive.localnet)
        self._kernel.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, tun)
            nursery.start_soon(self._from_mesh, tun, near)
            try:
                await self._from_kernel(tun, near)
            except OSError as exc:
                self._log.error("the interface %s is gone: %s", tun.name, exc.strerror)
            nursery.cancel_scope.cancel()

    async def _open_again(self) -> Tun:
        while True:
            await trio.sleep(REOPEN_PAUSE)
            try:
                return self._open_interface()
            except CannotListen as exc:
                self._log.error("cannot make the interface again: %s", exc)

    def _open_interface(self) -> Tun:
        wanted = self._directive
        name = wanted.interface or "tun"
        try:
            tun = Tun.open(wanted.interface)
        except (FileNotFoundError, PermissionError) as exc:
            reason = f"{DEVICE}: {exc.strerror}; a node needs CAP_NET_ADMIN for this"
            raise CannotListen("interface", name, reason) from exc
        except OSError as exc:
            raise CannotListen("interface", name, exc.strerror or str(exc)) from exc
        # The first address of the network is ours, the second stands for all other routers.
        own = wanted.localnet.network_address + 1
        try:
            interface.add_point_to_point(tun.index, own, own + 1)
            interface.set_up(tun.index)
        except OSError as exc:
            tun.close()
            reason = exc.strerror or str(exc)
            raise CannotListen("localnet", str(wanted.localnet), reason) from exc
        return tun

    # --- routes --------------------------------------------------------------------------------

    async def _follow(self, tun: Tun) -> None:
        """Keep our table and the kernel's as the other routers advertise."""
        while True:
            self._take_over(tun, self._mesh.status())
            await self._mesh.wait_changed()
            await trio.sleep(SETTLE)

    def _take_over(self, tun: Tun, status: MeshStatus) -> None:
        costs = path_costs(status.known_costs, status.node_id)
        self._table = RouteTable.of(status.advertisements, self._network, status.node_id, costs)
        own = {self._directive.localnet, *self._directive.routes}
        wanted = self._table.networks - own
        for network in sorted(self._kernel - wanted, key=str):
            self._change(tun, network, add=False)
        for network in sorted(wanted - self._kernel, key=str):
            self._change(tun, network, add=True)

    def _change(self, tun: Tun, network: Network, *, add: bool) -> None:
        what = "add" if add else "remove"
        try:
            (interface.add_route if add else interface.delete_route)(tun.index, network)
        except OSError as exc:
            if exc.errno in _TRANSIENT:
                # The next change of the mesh brings us here again.
                self._log.warning("cannot %s the route to %s now: %s", what, network, exc.strerror)
                return
            if exc.errno == errno.ESRCH and not add:
                self._log.debug("the route to %s was gone already", network)
            else:
                self._log.warning("cannot %s the route to %s: %s", what, network, exc.strerror)
        else:
            self._log.info("%s the route to %s", "added" if add else "removed", network)
        # Also where it failed: it would fail again with every change of the mesh.
        (self._kernel.add if add else self._kernel.discard)(network)

    # --- packets -------------------------------------------------------------------------------

    async def _from_kernel(self, tun: Tun, near: DatagramSocket) -> None:
        """Send on what the kernel sends out by the interface. Raises OSError when that is gone."""
        while True:
            packet = await tun.receive()
            destination = destination_of(packet)
            node = self._table.find(destination) if destination is not None else None
            if node is None:
                # The kernel's own chatter, router solicitations and the like, also ends here.
                self.drops.note_quietly("no router leads there")
                continue
            try:
                await near.send_to(node, self._network, packet)
            except MeshnodeError as exc:
                self.drops.note(str(exc))

    async def _from_mesh(self, tun: Tun, near: DatagramSocket) -> None:
        while True:
            try:
                datagram = await near.receive()
                if datagram.service != self._network or datagram.node not in self._table.nodes:
                    self.drops.note("sent by a node that is no router of this network")
                    continue
                tun.send(datagram.payload)
            except MeshnodeError as exc:
                self.drops.note(str(exc))
            except OSError as exc:
                self.drops.note(f"the kernel refused it: {os.strerror(exc.errno or 0).lower()}")
