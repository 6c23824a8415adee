"""Where the control service is and how to trust it: addresses and TLS settings, as typed values."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshctl.api.errors import BadSettings

_NETWORK = re.compile(r"(tcp|tls):(?://)?(?:\[([^\[\]/]+)\]|([^\[\]/]+)):([0-9]+)/?")
_WEB = re.compile(r"(https?)://(?:\[([^\[\]/]+)\]|([^\[\]/:]+))(?::([0-9]+))?(/[!-~]*)?")
_OTHER_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://.*")
_HOST_AND_PORT = re.compile(r"[^/:]*:[0-9]+")

LAST_PORT = 65535
"""The highest TCP port."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket in the file system."""

    path: str


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """A TCP address, with TLS on it or not."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class WebAddress:
    """An ``http-service``, with TLS or not.

    Attributes:
        prefix: of its paths, behind a proxy that has others; empty or ``/…`` without a slash at
            its end.
        token: what shows who we are, empty for a certificate or nothing.
    """

    host: str
    port: int
    tls: bool
    prefix: str = ""
    token: str = ""

    @property
    def authority(self) -> str:
        """What stands in the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """The path of control sessions."""
        return f"{self.prefix}/api/v1/session"


Address = UnixAddress | NetworkAddress | WebAddress


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How to do TLS with a ``tls://`` address.

    Attributes:
        rootcas: File of CA certificates (PEM) that replaces the system's; empty for the system's.
        key: File of our private key (PEM), with ``cert``.
        cert: File of our certificate (PEM), for a service that asks clients for one.
        insecureskipverify: Accept any server certificate.
    """

    rootcas: str = ""
    key: str = ""
    cert: str = ""
    insecureskipverify: bool = False


def parse_address(text: str) -> Address:
    """Read a control address: a path, ``unix:PATH``, ``unix://PATH``, ``tcp://…``, ``tls://…``,
    or that of an ``http-service``: ``https://HOST[:PORT]``, ``http://HOST:PORT``.

    ``tcp:HOST:PORT`` without slashes and IPv6 addresses in brackets are taken too; a leading ``~``
    of a path is the home directory.

    Raises:
        BadSettings: it is none of these.
    """
    if match := _NETWORK.fullmatch(text):
        port = int(match[4])
        if not 0 < port <= LAST_PORT:
            raise BadSettings(f"{text}: a port is a number from 1 to {LAST_PORT}")
        return NetworkAddress(match[2] or match[3], port, match[1] == "tls")
    if match := _WEB.fullmatch(text):
        is_tls = match[1] == "https"
        port = int(match[4] or (443 if is_tls else 80))
        if not 0 < port <= LAST_PORT:
            raise BadSettings(f"{text}: a port is a number from 1 to {LAST_PORT}")
        return WebAddress(match[2] or match[3], port, is_tls, (match[5] or "").rstrip("/"))
    path = text.removeprefix("unix:").removeprefix("//") if text.startswith("unix:") else text
    if path == text and (text.startswith(("tcp:", "tls:")) or _OTHER_SCHEME.fullmatch(text)):
        raise BadSettings(
            f"{text} is no control address: give a socket's path, tcp://HOST:PORT, "
            "tls://HOST:PORT or https://HOST:PORT"
        )
    if path == text and _HOST_AND_PORT.fullmatch(text):
        raise BadSettings(f"{text} is no socket's path: for TCP write tcp://{text}")
    if not path or "\0" in path:
        raise BadSettings("the socket's path is empty" if not path else "a path has no NUL in it")
    return UnixAddress(os.path.expanduser(path))


def with_token(address: Address, token: str) -> Address:
    """Return an address with the token that its service is shown.

    Raises:
        BadSettings: it is no address of an ``http-service``, or the token is none.
    """
    if not token:
        return address
    if not isinstance(address, WebAddress):
        raise BadSettings("a token is for https:// addresses; elsewhere show a certificate")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise BadSettings("a token is one word of ASCII")
    return replace(address, token=token)


def read_token(path: str) -> str:
    """Return the token in a file: its first line. Raises BadSettings."""
    try:
        with open(path, encoding="ascii") as file:
            token = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadSettings(f"cannot read --token-file {path}: {reason}") from error
    if not token:
        raise BadSettings(f"--token-file {path} is empty")
    return token


def choose_tls(
    config: str | None, tls_client: str | None, given: TlsSettings, *, read: bool
) -> TlsSettings:
    """Combine the TLS options by receptorctl's rules: a configured client, or single options.

    Args:
        config: A node's configuration file that has the ``tls-client``.
        tls_client: Name of that ``tls-client``.
        given: What the single options say.
        read: Whether the settings are needed; without need the file is not opened.

    Raises:
        BadSettings: the options exclude each other, or the file has no such client.
    """
    if not config:
        return given
    if given.rootcas or given.key or given.cert:
        raise BadSettings("--config excludes --rootcas, --key and --cert")
    if not tls_client:
        raise BadSettings("--config needs --tls-client: the name of a tls-client in that file")
    if not read:
        return given
    return _read_tls_client(config, tls_client, given)


def _read_tls_client(config: str, name: str, given: TlsSettings) -> TlsSettings:
    """Find one ``tls-client`` in a node's configuration."""
    clients = _tls_clients(config)
    for client in clients:
        if client.get("name") == name:
            return _tls_from(client, given)
    names = _names(clients)
    known = f"it has {', '.join(names)}" if names else "it has none"
    raise BadSettings(f"{config} has no tls-client named {name}: {known}")


def tls_client_names(config: str) -> list[str]:
    """Return the name of each ``tls-client`` in a node's configuration. Raises BadSettings."""
    return _names(_tls_clients(config))


def _names(clients: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(client["name"]) for client in clients if "name" in client]


def _tls_clients(config: str) -> Sequence[Mapping[str, Any]]:
    """Return the parameters of each ``tls-client``; names are case-insensitive."""
    import yaml  # noqa: PLC0415 - slow to import and rarely needed

    try:
        with open(config, encoding="utf-8") as file:
            directives = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise BadSettings(f"cannot read {config}: {reason}") from error
    except yaml.YAMLError as error:
        raise BadSettings(f"{config} is not YAML: {' '.join(str(error).split())}") from error
    listed = directives if isinstance(directives, list) else []
    found = [_lower(directive).get("tls-client") for directive in listed]
    return [_lower(client) for client in found if client is not None]


def _lower(value: object) -> Mapping[str, Any]:
    """A map's keys in lower case; what is no map is an empty one."""
    return {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}


def _tls_from(client: Mapping[str, Any], given: TlsSettings) -> TlsSettings:
    return TlsSettings(
        rootcas=str(client.get("rootcas") or ""),
        key=str(client.get("key") or ""),
        cert=str(client.get("cert") or ""),
        insecureskipverify=_as_bool(client.get("insecureskipverify", given.insecureskipverify)),
    )


def _as_bool(value: object) -> bool:
    # A quoted "false" must not switch verification off.
    if isinstance(value, bool):
        return value
    if str(value).lower() in {"true", "false"}:
        return str(value).lower() == "true"
    raise BadSettings(f"insecureskipverify is true or false, not {value!r}")
