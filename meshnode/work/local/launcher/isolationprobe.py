"""Isolates a process as a command would be, and says why that fails: ``isolationprobe.py < order``.

It does all that the start of a command does, up to the execution of the program. That is to fail in
one known way: a probe that executed something would depend on what is visible.
"""

import json
import os
import sys

_NO_PROGRAM = "/"
"""What is to be executed: a directory, which nobody can."""


def _run() -> None:
    # Isolated mode puts no directory of ours on sys.path; the package root is five levels up.
    sys.path.append(__file__.rsplit("/", 5)[0])
    from meshnode.work.local.launcher import command  # noqa: PLC0415 - found by the line above
    from meshnode.work.local.launcher.isolation import IsolatedSpawn  # noqa: PLC0415

    order = json.load(sys.stdin)
    # A directory that there is, in the place of the unit's own.
    place = os.path.dirname(__file__)
    null = os.open(os.devnull, os.O_RDWR)
    # Not at the command's own directory: that one may come later, as the command may.
    spawn = IsolatedSpawn(order, "probe", place, None, {}).posix_spawn
    try:
        command.spawn(_NO_PROGRAM, [_NO_PROGRAM], {}, None, (null,) * 3, posix_spawn=spawn)
    except command.CannotExecute as error:
        told = str(error)
        if told != str(command.failed(_NO_PROGRAM, PermissionError(13, ""))):
            sys.stdout.write(told)


if __name__ == "__main__":
    _run()
