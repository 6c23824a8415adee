"""Which start of the machine this is."""

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return an ID that every start of the machine has its own of; empty where none is told."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
