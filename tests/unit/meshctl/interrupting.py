"""Ctrl-C for programs under test."""

import signal
import subprocess

PATIENCE = 30.0
"""Seconds before Ctrl-C is pressed again."""


def interrupt(process: subprocess.Popen) -> tuple[bytes, bytes]:
    """Interrupt as a person does, again if nothing happens; returns what is left of the output.

    A signal that comes between CPython's last look for signals and the system call in which it
    then blocks is acted on only when that call returns. A test whose signal follows the program's
    last step by microseconds meets that window now and then; a person never does.
    """
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            continue


def interrupt_amid_input(process: subprocess.Popen) -> int:
    """Do the same, its stdin left open, whose end would mean something; return the exit code."""
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            continue
