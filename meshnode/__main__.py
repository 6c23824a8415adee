"""``meshnode``, and ``python -m meshnode``."""

import gc
import os
import sys

COMPLETE = "_MESHNODE_COMPLETE"
"""The variable by which a shell asks for completions (completion.py)."""


def main() -> int:
    """Do what the command line asks for and return the exit code."""
    # While modules are loaded hardly anything becomes garbage, and looking for it takes a
    # twentieth of a node's start. The node turns collections on as soon as it has started.
    gc.disable()
    if instruction := os.environ.get(COMPLETE):
        from meshnode import completion  # noqa: PLC0415

        return completion.answer(instruction)
    from meshnode import cli  # noqa: PLC0415

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
