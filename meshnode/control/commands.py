"""The mesh's own commands of the control service. Work's are brought by ``meshnode.work``."""

from meshnode.control.connect import connect_command
from meshnode.control.mesh_face import ControlMesh
from meshnode.control.probes import ping_command, traceroute_command
from meshnode.control.registry import CommandRegistry
from meshnode.control.reload import Reloader, reload_command
from meshnode.control.status import Warnings, status_command


def register_mesh_commands(
    registry: CommandRegistry,
    mesh: ControlMesh,
    reload: Reloader,
    warnings: Warnings = list,
    *,
    forwarding: bool = False,
) -> None:
    """Add status, ping, traceroute, connect and reload (reference section 8) to a registry.

    ``warnings`` returns what ``status`` warns of; ``forwarding`` says whether a client from the
    mesh may connect to other nodes from here.
    """
    for command in (
        status_command(mesh, warnings),
        ping_command(mesh),
        traceroute_command(mesh),
        connect_command(mesh, forwarding=forwarding),
        reload_command(reload),
    ):
        registry.register(command)
