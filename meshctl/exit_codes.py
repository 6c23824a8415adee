"""The exit codes of meshctl. Those that receptorctl has too mean the same here."""

import enum


class ExitCode(enum.IntEnum):
    """What a script may conclude from the end of a meshctl command."""

    OK = 0
    FAILURE = 1
    PING_FAILED = 2
    RELOAD_NEEDS_RESTART = 3
    RELOAD_UNPARSABLE = 4
    RELOAD_FAILED = 5
    UNIT_CANCELED = 6
    WAIT_TIMED_OUT = 7
    SUBMIT_FAILED = 101
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141

    @property
    def meaning(self) -> str:
        """One line for the help text and the documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "wrong usage, node not reached, command refused, or the unit Failed",
    ExitCode.PING_FAILED: "at least one ping was not answered",
    ExitCode.RELOAD_NEEDS_RESTART: "reload: a directive changed that needs a restart",
    ExitCode.RELOAD_UNPARSABLE: "reload: the configuration does not parse",
    ExitCode.RELOAD_FAILED: "reload: any other failure",
    ExitCode.UNIT_CANCELED: "the unit was Canceled (work results, wait, status --watch, submit)",
    ExitCode.WAIT_TIMED_OUT: "wait: a unit had not ended when the time was up; it goes on",
    ExitCode.SUBMIT_FAILED: "the submission failed",
    ExitCode.INTERRUPTED: "Ctrl-C; a unit that was followed goes on",
    ExitCode.OUTPUT_CLOSED: "whoever read standard output closed it",
}


def help_epilog() -> str:
    """The table of exit codes as it stands at the end of ``meshctl --help``.

    The leading ``\\b`` keeps click from refilling the lines.
    """
    rows = "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)
    return f"\b\nExit codes:\n{rows}"
