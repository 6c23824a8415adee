"""What the options before the command say, for whichever command follows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from meshctl.render.output import Failure

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options of one run of meshctl, as given or taken from the environment."""

    socket: str
    config: str
    tls_client: str
    rootcas: str
    key: str
    cert: str
    insecureskipverify: bool

    def client(self) -> "ControlClient":
        """Make the client that these options describe; nothing is opened yet.

        Raises:
            Failure: no socket is given.
            ControlError: the options do not go together.
        """
        # Imported here: help and usage errors must not wait for sockets.
        from meshctl.api.client import ControlClient  # noqa: PLC0415
        from meshctl.api.settings import (  # noqa: PLC0415
            NetworkAddress,
            TlsSettings,
            choose_tls,
            parse_address,
        )

        if not self.socket:
            raise Failure("no control socket given: use --socket, or set MESHCTL_SOCKET")
        address = parse_address(self.socket)
        tls = choose_tls(
            self.config,
            self.tls_client,
            TlsSettings(self.rootcas, self.key, self.cert, self.insecureskipverify),
            read=isinstance(address, NetworkAddress) and address.tls,
        )
        return ControlClient(self.socket, tls=tls)

    def shell_command(self, *words: str) -> str:
        """Return the line that a person can paste to run ``meshctl`` on the same node."""
        import shlex  # noqa: PLC0415 - rarely needed

        options = {
            "--socket": self.socket,
            "--config": self.config,
            "--tls-client": self.tls_client,
            "--rootcas": self.rootcas,
            "--key": self.key,
            "--cert": self.cert,
            "--insecureskipverify": "true" if self.insecureskipverify else "",
        }
        given = [part for name, value in options.items() if value for part in (name, value)]
        return shlex.join(["meshctl", *given, *words])


pass_invocation = click.make_pass_decorator(Invocation)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
