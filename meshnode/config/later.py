"""Directives that receptor has, or that are planned, and that meshnode does not support yet.

They are refused by name: a configuration that asks for TLS and silently gets none would be worse
than one that does not start.
"""

from typing import Final

LATER_DIRECTIVES: Final = (
    "tls-server",
    "tls-client",
    "work-kubernetes",
    "trace",
    "cert-init",
    "cert-makereq",
    "cert-signreq",
)
"""Every directive of receptor that is not in directives.py."""
