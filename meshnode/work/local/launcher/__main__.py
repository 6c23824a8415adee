"""Entry of the launcher process: ``python -I -S <this file>``, with its socket as stdin.

Isolated mode keeps the user's site-packages, ``.pth`` files and environment out of a process that
lives as long as the node and is forked for every unit.
"""

import sys


def _run() -> None:
    # Isolated mode puts no directory of ours on sys.path; the package root is five levels up.
    sys.path.append(__file__.rsplit("/", 5)[0])
    from meshnode.work.local.launcher.main import main  # noqa: PLC0415 - found by the line above

    main()


if __name__ == "__main__":
    _run()
