"""The public Python API: one client for one control service.

Plain blocking sockets; a client is for one thread at a time (the streams it hands out are their
own). Whatever the node, the network or the payload does is a :class:`meshctl.ControlError`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from meshctl.api import JsonObject
from meshctl.api.connection import Connection, ControlStream, ResultStream
from meshctl.api.errors import AWAY, CommandRefused, ProtocolMismatch
from meshctl.api.fetching import FetchesFiles
from meshctl.api.logindex import STDOUT
from meshctl.api.onward import connect_on, open_at_node
from meshctl.api.requests import adoption, command_line, remote_ending, results_request, word
from meshctl.api.settings import TlsSettings, parse_address, with_token
from meshctl.api.status import UNFINISHED, Watch, unit_status
from meshctl.api.submission import Submission
from meshctl.api.submitting import SubmitsWork

OPEN_TIMEOUT = 10.0
"""Seconds to wait for each step of opening a session: connected, TLS, greeted. A loaded node takes
milliseconds; ten seconds are for a far one."""

OUTCOMES = ("cancelled", "cancel pending", "released", "release pending")
"""What a node may say that it did with a unit that it was to end."""

_STREAMING = re.compile(r"Streaming results for work unit .+")


class ControlClient(SubmitsWork, FetchesFiles):
    """A client of the control service at ``address``; a context manager.

    Nothing is opened before the first use. Commands share one session, opened again when the node
    has closed it meanwhile; results, submissions and streams each use a session up.

    Args:
        address: A socket's path, ``unix:PATH``, ``tcp://HOST:PORT``, ``tls://HOST:PORT``, or an
            ``http-service``: ``https://HOST:PORT``.
        tls: For both with TLS; the default trusts the system's CAs and shows no certificate.
        timeout: Seconds for each step of opening a session. Replies are not bounded: a cancel or
            a ping takes the time that the node gives it.
        node: Ask the control service of this node, through the mesh that the one at ``address``
            is part of. It judges what a client from there may do.
        tls_client: Name of a ``tls-client`` of the node at ``address``, for the way to ``node``.
        token: For ``https://``: what shows the service who asks.

    Raises:
        BadSettings: the address is none, or ``node`` is no ID.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: TlsSettings | None = None,
        timeout: float = OPEN_TIMEOUT,
        node: str = "",
        tls_client: str = "",
        token: str = "",
    ) -> None:
        self._name = address
        self._token = token
        self._address = with_token(parse_address(address), token)
        self._node = word("node", node) if node else ""
        self._tls_client = word("TLS client", tls_client) if tls_client else ""
        self._tls = tls or TlsSettings()
        self._timeout = timeout
        self._session: Connection | None = None
        self._node_id = ""

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def node_id(self) -> str:
        """The ID of the node, from its greeting; connects where need be."""
        if not self._node_id:
            self.connect()
        return self._node_id

    def connect(self) -> None:
        """Open the session that commands use, if it is not open.

        Raises:
            CannotReach, NotTrusted, ProtocolMismatch, BadSettings.
        """
        self._session = self.take()

    def close(self) -> None:
        """Close the session; a later use opens another."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def at(self, node: str, tls_client: str = "") -> "ControlClient":
        """Return a client of the control service of ``node``, through the node of this one."""
        more = {"node": node, "tls_client": tls_client, "token": self._token}
        return ControlClient(self._name, tls=self._tls, timeout=self._timeout, **more)

    def command(self, command: str | Mapping[str, object]) -> JsonObject:
        """Send one command that has one reply, and return that.

        Args:
            command: A line (``"work list"``) or an object (``{"command": "ping", …}``).

        Raises:
            CommandRefused: the node answered ERROR.
            SessionLost: it answered nothing; whether it acted is not known.
            ProtocolMismatch: its reply is no JSON object, as of a command that streams.
            CannotReach: no session could be opened.
            BadSettings: ``command`` is none: more than one line, or JSON without a ``command``.
        """
        line = command_line(command)
        with self._using() as session:
            session.send_line(line)
            return session.read_json()

    def status(self, fields: Sequence[str] | None = None) -> JsonObject:
        """Return the node's status (protocol section 8), or only the named fields of it."""
        if fields is None:
            # In JSON: the line of text has receptor's fields only, also of a meshnode.
            return self.command({"command": "status"})
        return self.command({"command": "status", "requested_fields": list(fields)})

    def ping(self, node: str) -> JsonObject:
        """Ping a node: ``{"Success": True, "From", "Time" (ns), "TimeStr"}``.

        A node out of reach is no exception: ``{"Success": False, "Error": …}``.
        """
        return self.command(f"ping {word('node', node)}")

    def traceroute(self, node: str) -> list[JsonObject]:
        """Return the hops to a node in order; one that failed has an ``Error``."""
        reply = self.command(f"traceroute {word('node', node)}")
        try:
            return [reply[key] for key in sorted(reply, key=int)]
        except ValueError as error:
            raise ProtocolMismatch("the node's hops are not numbered") from error

    def reload(self) -> JsonObject:
        """Ask the node to read its configuration again: ``{"Success": bool, "Error"?: str}``."""
        return self.command("reload")

    def work_list(
        self, unit_id: str = "", *, node: str = "", tls_client: str = ""
    ) -> dict[str, JsonObject]:
        """Return status by unit ID: of all units, or of one.

        Args:
            unit_id: Only this one.
            node: Ask the control service of this node, through ours.
            tls_client: Name of a ``tls-client`` of our node, for the way to ``node``.
        """
        if node:
            with self.at(node, tls_client) as other:
                return other.work_list(unit_id)
        reply = self.command(f"work list {word('unit ID', unit_id)}" if unit_id else "work list")
        if not all(isinstance(status, dict) for status in reply.values()):
            raise ProtocolMismatch("the node's reply is no list of units")
        return reply

    def work_status(self, unit_id: str) -> JsonObject:
        """Return the status of one unit. Raises CommandRefused when there is none of that ID."""
        return unit_status(self.command(f"work status {word('unit ID', unit_id)}"))

    def watch(self, unit_id: str) -> Iterator[JsonObject]:
        """Return a unit's status now and after each change, the final one last.

        Growth of stdout alone is no change. A meshnode tells by itself, in a session of its own; a
        receptor node is asked once a second. A node that goes away has 30 s to come back.

        Raises:
            CommandRefused: while iterating, as the others: there is no such unit, or not any more.
            SessionLost, CannotReach, ProtocolMismatch: the node stays away.
        """
        return self.watching(unit_id).statuses()

    def watching(self, unit_id: str) -> Watch:
        """Return what :meth:`watch` iterates over, which another thread may stop."""
        return Watch(self.take, self.work_status, word("unit ID", unit_id))

    def wait(
        self,
        unit_id: str,
        timeout: float | None = None,
        on_away: Callable[[str], object] | None = None,
        *,
        is_known: bool = False,
    ) -> JsonObject:
        """Return the final status of a unit once it has ended, as :meth:`watch` tells it.

        Args:
            unit_id: The unit.
            timeout: Seconds until WaitTimedOut is raised; 0 asks once, None waits without end.
            on_away: Called with the reason when the node goes away, and is waited for.
            is_known: The unit is known to exist: a node that is away is waited for from the start.

        Raises:
            WaitTimedOut: the unit goes on; with its last known ``status``.
            CommandRefused, SessionLost, CannotReach, ProtocolMismatch: as :meth:`watch`.
        """
        if timeout is None and (ended := self._end_of(unit_id)) is not None:
            return ended
        unit = word("unit ID", unit_id)
        watch = Watch(self.take, self.work_status, unit, timeout, on_away, is_known=is_known)
        *_, status = watch.statuses()
        return status

    def _end_of(self, unit_id: str) -> JsonObject | None:
        """Return the status of a unit that has ended; the session is kept, as by a watch it is not.

        None if the unit goes on, or if the node must be waited for, which a watch does.
        """
        try:
            status = self.work_status(unit_id)
        except AWAY:
            return None
        return None if status.get("State") in UNFINISHED else status

    def cancel(self, unit_id: str) -> str:
        """Cancel a unit: ``cancelled``, or ``cancel pending`` while its node is out of reach."""
        return self._outcome("cancel", unit_id)

    def release(self, unit_id: str, *, remote: bool = False) -> str:
        """Cancel a unit and delete its files: ``released``, or ``release pending``.

        A unit that was adopted goes on where it is, unless ``remote`` asks for its release there.
        """
        return self._outcome("release", unit_id, remote=remote)

    def force_release(self, unit_id: str, *, remote: bool = False) -> str:
        """As :meth:`release`, and delete our side even if its node is out of reach."""
        return self._outcome("force-release", unit_id, remote=remote)

    def adopt(
        self, node: str, unit_id: str, *, tls_client: str = "", signwork: bool = False
    ) -> Submission:
        """Have our node follow a unit that another node has; return what it is here.

        From there on it is a unit like one that was submitted here, with all of its stdout.

        Args:
            node: The node that has the unit.
            unit_id: Its ID there.
            tls_client: Name of a ``tls-client`` of our node, for the way to ``node``.
            signwork: Have our node sign what it asks of the other one.

        Raises:
            CommandRefused: the unit cannot be adopted; nothing is left of the attempt.
        """
        reply = self.command(adoption(node, unit_id, tls_client, signwork))
        if isinstance(unit := reply.get("unitid"), str):
            return Submission(unit, str(reply.get("result", "")))
        raise ProtocolMismatch("the node's reply to adopt names no unit")

    def results(self, unit_id: str, startpos: int = 0, stream: str = STDOUT) -> ResultStream:
        """Return a unit's stdout from ``startpos`` (bytes) as it comes, until the unit has ended.

        The request is made at once. The end of the pieces is the end of the unit; its status says
        which end that was. ``stream`` may be ``stderr`` or ``index``, of a unit whose status has
        ``StderrSize`` or ``IndexSize``: older nodes know no streams, and send stdout.

        Raises:
            CommandRefused: there is no such unit.
            SessionLost: the session broke; also while iterating.
        """
        session = self.take()
        try:
            session.send_line(results_request(unit_id, startpos, stream))
            line = session.read_line()
            if not _STREAMING.fullmatch(line):
                raise ProtocolMismatch(f"the node's reply is not one to results: {line[:60]!r}")
        except BaseException:
            session.close()
            raise
        # Unlike receptorctl we do not end our half: TLS's goodbye would lie unread at the node when
        # it closes, and TCP then throws away what we have not read yet.
        return ResultStream(session)

    def connect_stream(self, node: str, service: str, tls_client: str = "") -> ControlStream:
        """Open a stream to ``service`` on ``node``.

        Args:
            node: The node; ``localhost`` for that of the control service.
            service: A stream service there, as its advertisement names it.
            tls_client: Name of a ``tls-client`` of our node.

        Raises:
            CommandRefused: the mesh said why not.
        """
        word("node", node)
        word("service", service)
        word("TLS client", tls_client or "none")
        session = self.take()
        try:
            return connect_on(session, node, service, tls_client, framed=True)
        except BaseException:
            session.close()
            raise

    def _outcome(self, subcommand: str, unit_id: str, *, remote: bool = False) -> str:
        reply = self.command(
            remote_ending(subcommand, unit_id)
            if remote
            else f"work {subcommand} {word('unit ID', unit_id)}"
        )
        for outcome in OUTCOMES:
            if outcome in reply:
                return outcome
        raise ProtocolMismatch(f"the node's reply to {subcommand} does not say what it did")

    def take(self) -> Connection:
        """Return an exclusive session, the idle one or a new one: the caller closes it."""
        session, self._session = self._session, None
        if session is not None:
            if session.is_idle():
                return session
            session.close()
        session = Connection.open(self._address, self._name, self._tls, self._timeout)
        try:
            there = open_at_node(session, self._node, self._tls_client, self._timeout)
        except BaseException:
            session.close()
            raise
        self._node_id = there.node_id
        return there

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        """A session for one command, kept for the next one unless something unexpected comes."""
        session = self.take()
        try:
            yield session
        except CommandRefused:
            self._session = session  # the session goes on after an ERROR line
            raise
        except BaseException:
            session.close()
            raise
        self._session = session
