"""``auth can``: whether the client that asks may do something, without doing it.

It asks what the command itself would ask, of the same rules and signatures, and says what the
client would be told. Nothing is logged as refused, and nothing is started.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from meshnode.control.registry import Asking, Command, ControlSession, Handler, JsonObject
from meshnode.errors import CommandError, SecurityError
from meshnode.permissions import ON_UNITS, Verb
from meshnode.security.access import Target
from meshnode.work.remote.asking import Answer, OtherHalf
from meshnode.work.units.access import Caller, UnitAccess
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.submission import Submission
from meshnode.work.units.unit import Unit

AskOther = Callable[[OtherHalf], Awaitable[Answer]]
"""Asks another node."""

_WORDS: Final[Mapping[Verb, tuple[str, ...]]] = MappingProxyType(
    {
        Verb.SUBMIT: ("worktype", "node"),
        **dict.fromkeys(ON_UNITS, ("unitid",)),
        Verb.ADOPT: ("node", "unitid"),
        Verb.CONNECT: ("node", "service"),
        Verb.PING: ("node",),
        Verb.RELOAD: (),
        Verb.MESH: (),
    }
)
"""What the words after a verb are, in the text form."""


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """What a client asks whether it may do it."""

    verb: Verb
    node: str = ""
    work_type: str = ""
    service: str = ""
    unit_id: str = ""
    params: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tls_client: str = ""
    sign_work: bool = False
    signature: str = ""


def auth_command(units: UnitManager, ask_other: AskOther) -> Command:
    """Return the ``auth`` command. Everybody may ask it: it tells who asks only of itself."""
    asked = AuthCommand(units, ask_other)
    return Command(
        "auth",
        parse_text=lambda words: asked.handler(parse_text(words)),
        parse_json=lambda data: asked.handler(parse_json(data)),
    )


class AuthCommand:
    """Answers such requests."""

    def __init__(self, units: UnitManager, ask_other: AskOther) -> None:
        self._units = units
        self._ask_other = ask_other

    def handler(self, request: AuthRequest) -> Handler:
        """Return what answers a request."""

        async def run(session: ControlSession) -> JsonObject:
            return await self._answer(request, Caller.of(session))

        return Asking(run, None)

    async def _answer(self, request: AuthRequest, caller: Caller) -> JsonObject:
        try:
            unit = self._check(request, caller, self._units.access.rehearsal())
        except (CommandError, SecurityError) as error:
            # What the client would be told: no rule is named, and no unit that it may not see.
            return {"Allowed": False, "Here": False, "Reason": str(error)}
        half = self._other_half(request, unit)
        if half is None:
            return {"Allowed": True, "Here": True}
        answer = await self._ask_other(half)
        reply = {"Allowed": answer.allowed, "Here": True, "There": answer.allowed}
        return reply | {"Reason": answer.reason} if answer.reason else reply

    def _check(self, request: AuthRequest, caller: Caller, access: UnitAccess) -> Unit | None:
        """Return if the client may; with the unit, if it has named one.

        Raises:
            CommandError, SecurityError: it may not.
        """
        verb = request.verb
        if verb in {Verb.SUBMIT, Verb.ADOPT}:
            submission = self._submission(request)
            access.check_submission(submission, caller, verb, request.unit_id)
            return None
        if verb not in ON_UNITS:
            target = Target(node=request.node, service=request.service)
            access.check(verb, target.as_seen_by(self._units.node_id), caller)
            if verb is Verb.CONNECT:
                access.check_connect(request.node, caller)
            return None
        if not request.unit_id:
            access.check(verb, None, caller)
            return None
        unit = self._units.find(request.unit_id)
        is_shown = verb in {Verb.LIST, Verb.STATUS}
        check = access.check_visible if is_shown else access.check_unit
        check(verb, unit.unit_id, unit.status, request.signature, caller)
        return unit

    def _submission(self, request: AuthRequest) -> Submission:
        return Submission(
            node=request.node or self._units.node_id,
            work_type=request.work_type,
            params=request.params,
            tls_client=request.tls_client,
            sign_work=request.sign_work,
            signature=request.signature,
        )

    def _other_half(self, request: AuthRequest, unit: Unit | None) -> OtherHalf | None:
        """Return what this node would do on another one; None if there is no such half."""
        if request.verb in {Verb.SUBMIT, Verb.ADOPT}:
            if not request.node or self._units.access.is_local(request.node):
                return None
            # To adopt a unit is to be told its status.
            verb = Verb.SUBMIT if request.verb is Verb.SUBMIT else Verb.STATUS
            return OtherHalf(
                request.node,
                verb,
                request.work_type,
                request.params,
                request.unit_id,
                request.tls_client,
                request.sign_work,
            )
        remote = None if unit is None else unit.status.remote
        is_passed_on = request.verb is Verb.CANCEL or (
            request.verb is Verb.RELEASE and remote is not None and not remote.adopted
        )
        if unit is None or remote is None or not remote.unit_id or not is_passed_on:
            return None
        if request.verb is Verb.CANCEL and unit.is_final:
            return None
        return OtherHalf(
            remote.node,
            request.verb,
            unit_id=remote.unit_id,
            tls_client=remote.tls_client,
            sign_work=remote.sign_work,
        )


# --- Reading requests


def parse_text(words: str) -> AuthRequest:
    """Read what stands after ``auth ``: ``can VERB`` and what it is asked of. Raises CommandError.

    Of ``submit``, what follows type and node are the parameters as one text.
    """
    subcommand, _, rest = words.partition(" ")
    if subcommand.lower() != "can":
        raise CommandError("bad command")
    verb, *given = rest.split(" ")
    data: JsonObject = {"command": "auth", "subcommand": "can", "verb": verb}
    names = _WORDS.get(_verb(verb), ())
    data |= dict(zip(names, given, strict=False))
    if len(given) > len(names):
        if data["verb"] != Verb.SUBMIT:
            raise CommandError(f"auth can {verb} takes {' '.join(names) or 'nothing'}")
        data["params"] = {"params": " ".join(given[len(names) :])}
    return parse_json(data)


def parse_json(data: JsonObject) -> AuthRequest:
    """Read a whole JSON object. Raises CommandError."""
    if _text(data, "subcommand").lower() != "can":
        raise CommandError("bad command")
    params = data.get("params", {})
    if not isinstance(params, dict) or not all(isinstance(one, str) for one in params.values()):
        raise CommandError("field params must be an object of strings")
    request = AuthRequest(
        verb=_verb(_text(data, "verb")),
        node=_text(data, "node"),
        work_type=_text(data, "worktype"),
        service=_text(data, "service"),
        unit_id=_text(data, "unitid"),
        params=MappingProxyType(params),
        tls_client=_text(data, "tlsclient"),
        sign_work=_text(data, "signwork") == "true",
        signature=_text(data, "signature"),
    )
    needed = {
        Verb.SUBMIT: ("worktype",),
        Verb.ADOPT: ("node", "unitid"),
        Verb.CONNECT: ("node", "service"),
        Verb.PING: ("node",),
    }
    for name in needed.get(request.verb, ()):
        if not data.get(name):
            raise CommandError(f"field {name} missing")
    return request


def _verb(text: str) -> Verb:
    try:
        return Verb(text)
    except ValueError:
        raise CommandError(f"field verb must be one of {', '.join(Verb)}") from None


def _text(data: JsonObject, key: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise CommandError(f"field {key} must be a string")
    return value
