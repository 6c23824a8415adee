"""Which names and addresses are well-formed: node IDs, services, work types, host:port.

The kinds of parameters (kinds.py and the directives) hold values to these rules.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from meshnode.config.faults import quote

MAX_NODE_ID_BYTES = 255
"""A node ID names a directory; file systems take 255 bytes (NAME_MAX)."""

MAX_SERVICE_BYTES = 8
"""The data message's header has 8 bytes for a service name (protocol section 3)."""

MAX_WORK_TYPE_BYTES = 255
"""Bytes of a work type's name, which every advertisement carries."""

MAX_SOCKET_PATH_BYTES = 107
"""The kernel's ``sun_path`` has 108 bytes; one is the terminating NUL."""

MAX_PORT = 65535
"""Ports are 16 bits wide."""

COMMON_PORTS: Mapping[str, int] = MappingProxyType(
    {"ssh": 22, "domain": 53, "http": 80, "https": 443}
)
"""Names of ports that are known without /etc/services."""

RESERVED_SERVICES = frozenset({"ping", "unreach"})
"""Service names that the mesh answers itself (protocol section 3)."""

MAX_LABEL_NAME = 63
"""Characters of a label's name, as elsewhere: what is a label in Kubernetes is one here."""

MAX_LABEL_VALUE = 256
"""Characters of a label's value."""

MAX_LABELS = 16
"""Labels of a node, or of a unit."""

MAX_LABEL_CHARACTERS = 1024
"""Characters of all names and values of them. Those of units are in memory and in each list for as
long as the unit is there, those of nodes in each advertisement."""

LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[^\s:/\[\]]+")


class Wrong(ValueError):
    """A value breaks a rule; the text continues a line that already names the parameter.

    Attributes:
        receptors_words: what receptor says of the same, where tools look for that.
    """

    def __init__(self, text: str, *, receptors_words: str = "") -> None:
        super().__init__(text)
        self.receptors_words = receptors_words


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect or listen: ``host`` has no brackets; an empty one is all interfaces."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the address as people write it: ``host:port``, ``[IPv6]:port``, ``*:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host or "*"
        return f"{host}:{self.port}"


def check_node_id(text: str) -> str:
    """Return ``text`` if it can name a node: it is a directory name and stands in messages.

    Raises:
        Wrong: it cannot.
    """
    _check_word(text, "a node ID", MAX_NODE_ID_BYTES)
    if "/" in text or text in {".", ".."}:
        raise Wrong(f"{quote(text)} cannot be a node ID: it must be usable as a directory name")
    if "," in text:
        raise Wrong(
            f"{quote(text)} cannot be a node ID: it has a comma; several are a list: [a, b]"
        )
    if text.lower() == "localhost":
        raise Wrong(f"{quote(text)} is reserved: it means the node itself")
    return text


def check_service(text: str) -> str:
    """Return ``text`` if it can name a service.

    Raises:
        Wrong: it cannot.
    """
    _check_word(text, "a service name", MAX_SERVICE_BYTES)
    if text in RESERVED_SERVICES:
        raise Wrong(f"{quote(text)} is reserved: the mesh answers it itself")
    return text


def check_work_type(text: str) -> str:
    """Return ``text`` if it can name a work type.

    Raises:
        Wrong: it cannot.
    """
    _check_word(text, "a work type", MAX_WORK_TYPE_BYTES)
    if text.lower() == "remote":
        raise Wrong(f"{quote(text)} is reserved: it is the type of units that run on other nodes")
    return text


def check_socket_path(text: str) -> str:
    """Return the path, expanded, if a unix socket can have it (empty: no socket).

    Raises:
        Wrong: it cannot.
    """
    text = expand_path(text)
    length = len(text.encode(errors="surrogateescape"))
    if length > MAX_SOCKET_PATH_BYTES:
        raise Wrong(
            f"{quote(text)} is {length} bytes long; "
            f"the path of a unix socket has at most {MAX_SOCKET_PATH_BYTES}"
        )
    return text


def check_bind_address(text: str) -> str:
    """Return the address to listen on, without brackets; empty means all interfaces.

    Raises:
        Wrong: it is neither an IP address nor a host name.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare == "" or _is_ip_address(bare) or _HOST.fullmatch(bare):
        return bare
    raise Wrong(f"{quote(text)} is not an address; the port goes into its own parameter")


def parse_address(text: str) -> Address:
    """Return the address that ``host:port`` or ``[IPv6]:port`` means.

    Raises:
        Wrong: it is not of that form.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host:
        raise Wrong(f"{quote(text)} is not host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip_address(host):
            raise Wrong(f"{quote(host)} is not an IPv6 address")
    elif ":" in host:
        raise Wrong(f"{quote(text)} is not host:port; an IPv6 address goes into brackets: [::1]:80")
    elif not _HOST.fullmatch(host):
        raise Wrong(f"{quote(text)} is not host:port")
    return Address(host, _port(port, least=1))


def parse_listen_address(text: str) -> Address:
    """Return the address to listen on that ``port`` or ``host:port`` means.

    Raises:
        Wrong: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    return Address(check_bind_address(host), _port(port, least=0))


_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expand_path(text: str) -> str:
    """Return a path with ``~``, ``~user`` and environment variables replaced, as a shell does.

    Raises:
        Wrong: there is no such user or variable.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise Wrong(f"{quote(text)}: the environment has no variable {name}")
        return os.environ[name]

    expanded = os.path.expanduser(_VARIABLE.sub(value, text))
    if text.startswith("~") and expanded == text:
        raise Wrong(f"{quote(text)}: there is no user {text[1:].partition('/')[0]}; write ./~")
    return expanded


def check_variable(text: str) -> str:
    """Return ``text`` if it can name an environment variable."""
    if not text or "=" in text or "\0" in text:
        raise Wrong(f"{quote(text)} cannot name an environment variable")
    return text


def check_absolute(text: str) -> str:
    """Return the path, expanded, if it is absolute: it means the same wherever the node started."""
    text = expand_path(text)
    if not text.startswith("/") or "\0" in text:
        raise Wrong(f"{quote(text)} is not an absolute path")
    return text


def check_host_word(text: str, what: str, most: int) -> str:
    """Return ``text`` if a program can be given it as the name of a host or user, and no option.

    Raises:
        Wrong: it cannot.
    """
    _check_word(text, what, most)
    if text.startswith("-"):
        raise Wrong(f"{quote(text)} cannot be {what}: it begins with a dash")
    return text


def _check_word(text: str, what: str, most: int) -> None:
    if not text:
        raise Wrong(f"is empty; {what} is needed")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise Wrong(f"{quote(text)} cannot be {what}: it has spaces or control characters")
    length = len(text.encode(errors="surrogateescape"))
    if length > most:
        raise Wrong(f"{quote(text)} is {length} bytes long; {what} has at most {most}")


def _port(text: str, least: int) -> int:
    port = int(text) if _PORT.fullmatch(text) else _named_port(text)
    if port is None:
        raise Wrong(f"{quote(text)} is neither a port nor the name of one")
    if not least <= port <= MAX_PORT:
        raise Wrong(f"port {port} is out of range; ports are {least} to {MAX_PORT}")
    return port


def _named_port(name: str) -> int | None:
    """Return the port that /etc/services, which a container may lack, has under a name."""
    for protocol in ("tcp", "udp"):
        try:
            return socket.getservbyname(name, protocol)
        except (OSError, ValueError):  # ValueError: a NUL or half a surrogate in the name
            continue
    return COMMON_PORTS.get(name)


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_label_name(value: str) -> str:
    """Return the name of a label. Raises Wrong if it is none."""
    if len(value) > MAX_LABEL_NAME or LABEL_NAME.fullmatch(value) is None:
        raise Wrong(
            f"{quote(value)} is no name of a label: at most {MAX_LABEL_NAME} of the characters "
            "A-Za-z0-9._/- with a letter or digit at both ends"
        )
    return value


def are_few_labels(labels: Mapping[str, str]) -> bool:
    """Whether a node or a unit may have as many labels."""
    characters = sum(len(name) + len(value) for name, value in labels.items())
    return len(labels) <= MAX_LABELS and characters <= MAX_LABEL_CHARACTERS


def check_label_value(value: str) -> str:
    """Return the value of a label. Raises Wrong if it is none that can be asked for."""
    if len(value) > MAX_LABEL_VALUE or not value.isprintable() or "," in value:
        raise Wrong(
            f"{quote(value)} is no value of a label: at most {MAX_LABEL_VALUE} printable "
            "characters, and no comma"
        )
    return value
