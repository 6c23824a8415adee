"""``meshctl``, and ``python -m meshctl``."""

import sys

INTERRUPTED = 130
"""The exit code of Ctrl-C, as :class:`meshctl.render.output.ExitCode` has it."""


def main() -> None:
    """Do what the command line asks for; it ends with SystemExit."""
    try:
        # Loaded here: Ctrl-C meanwhile is no fault of a module.
        from meshctl.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
