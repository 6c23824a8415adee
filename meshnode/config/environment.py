"""Whether this machine can run a configuration: what a check of the file alone cannot tell.

Nothing is created or changed: ``meshnode check`` must leave no trace.
"""

import os
import stat
from pathlib import Path

from meshnode.config.directives import ControlService, Node, NodeConfig
from meshnode.config.faults import FaultLog, printable
from meshnode.config.schema import Directive
from meshnode.config.service_directives import UnixSocketServer
from meshnode.ownership import NODE_DIRECTORIES, judge


def check_environment(config: NodeConfig) -> None:
    """Check that the directories a node needs are there, or can be made, and can be written.

    Raises:
        ConfigFaults: some are not.
    """
    faults = FaultLog()
    _check_datadir(config.node, faults)
    for service in (*config.control_services, *config.services):
        if isinstance(service, ControlService | UnixSocketServer) and service.filename:
            _check_socket(service, faults)
    faults.raise_if_any()


def _check_datadir(node: Node, faults: FaultLog) -> None:
    _check_owners(node, faults)
    for directory in (node.datadir / node.id, *(node.datadir / node.id).parents):
        try:
            mode = directory.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue  # it, or the file that is in its way, shows at one of its parents
        except OSError as error:
            _note(faults, node, "datadir", directory, f"cannot be used: {_reason(error)}")
            return
        if not stat.S_ISDIR(mode):
            _note(faults, node, "datadir", directory, "is not a directory")
        elif not os.access(directory, os.W_OK | os.X_OK):
            _note(faults, node, "datadir", directory, "cannot be written by this user")
        return


def _check_owners(node: Node, faults: FaultLog) -> None:
    try:
        refusal = judge(node.datadir / node.id, own=NODE_DIRECTORIES).refusal
    except OSError:
        return  # why it cannot be used is told by whoever looks at it next
    if refusal:
        faults.add(node.place_of("datadir"), node.INFO.name, "datadir", text=printable(refusal))


def _check_socket(service: ControlService | UnixSocketServer, faults: FaultLog) -> None:
    path = Path(service.filename)
    try:
        # lstat of the socket: a node replaces what is at the path itself, link or not.
        if not stat.S_ISDIR(path.parent.stat().st_mode):
            _note(faults, service, "filename", path.parent, "is not a directory")
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            _note(faults, service, "filename", path.parent, "cannot be written by this user")
        elif os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            _note(faults, service, "filename", path, "is there and is not a socket")
    except FileNotFoundError:
        _note(faults, service, "filename", path.parent, "does not exist; create it first")
    except OSError as error:
        _note(faults, service, "filename", path.parent, f"cannot be used: {_reason(error)}")


def _note(faults: FaultLog, directive: Directive, parameter: str, path: Path, text: str) -> None:
    place = directive.place_of(parameter)
    faults.add(place, directive.INFO.name, parameter, text=f'"{printable(str(path))}" {text}')


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
