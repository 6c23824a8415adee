"""Shells on a terminal of their own, for tests of completion: type, press TAB, see the line."""

import os
import pty
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

SHOW = "\x18\x10"
"""Keys (Ctrl-X Ctrl-P) at which a shell tells the line as it stands."""

COMMANDS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
"""How a shell is started that reads no files of who runs the tests."""

SETUPS = {
    "bash": """\
PS1='$ '
bind 'set enable-bracketed-paste off'
tell() {{ printf '%s\\n' "$READLINE_LINE" > {told}; }}
bind -x '"\\C-x\\C-p": tell'
""",
    "zsh": """\
PS1='$ '
autoload -Uz compinit
compinit -D -u
tell() {{ print -r -- "$BUFFER" > {told} }}
zle -N tell
bindkey -e
bindkey '^X^P' tell
""",
}
"""What makes each tell its line at SHOW."""


BEGUN = "begun"
"""What is told when a shell has evaluated all that it should at its start."""


class Shell:
    """An interactive shell; what it draws is kept."""

    def __init__(self, terminal: int, told: Path) -> None:
        self._terminal = terminal
        self._told = told
        self._drawn = bytearray()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._terminal, 65536):
                self._drawn += data
        except OSError:
            pass  # EIO: the shell has ended

    def join(self) -> None:
        """Wait for the end of what the shell draws."""
        self._reader.join()

    @property
    def drawn(self) -> str:
        """All that the shell has drawn so far."""
        return self._drawn.decode(errors="replace")

    def typed(self, keys: str) -> str:
        """Type keys on an empty line, and return the line that comes of it; it is then emptied."""
        os.write(self._terminal, f"{keys}{SHOW}".encode())
        # The pipe is opened by the shell when it has done what the keys before ask for.
        line = self._told.read_text().removesuffix("\n")
        os.write(self._terminal, b"\x05\x15")
        return line


@contextmanager
def started(shell: str, lines: str, environment: Mapping[str, str], place: Path) -> Iterator[Shell]:
    """Start ``bash`` or ``zsh`` on a terminal, and end it afterwards.

    Args:
        shell: Which.
        lines: What it evaluates at its start.
        environment: Its variables.
        place: A new directory for its files, which is its user's home, too.
    """
    place.mkdir()
    told = place / "told"
    os.mkfifo(told)
    setup = place / "setup"
    # What is typed before a shell reads keys by itself is edited by the terminal.
    setup.write_text(f"{SETUPS[shell].format(told=told)}{lines}\necho {BEGUN} > {told}\n")
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": str(place), "ZDOTDIR": str(place)}
    process = subprocess.Popen(
        ["setsid", "--ctty", *COMMANDS[shell]],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, **more},
    )
    os.close(theirs)
    terminal = Shell(ours, told)
    try:
        os.write(ours, f". {setup}\n".encode())
        assert told.read_text() == f"{BEGUN}\n"
        yield terminal
    finally:
        process.kill()
        process.wait()
        terminal.join()
        os.close(ours)
