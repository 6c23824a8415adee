"""How a directive is declared: a frozen dataclass whose fields carry their own description.

::

    @directive("tcp-listener", "Accept links over TCP.", section="Links")
    class TcpListener(Directive):
        port: int = parameter(whole(0, 65535), "TCP port to listen on", bare=True)

From that one declaration come the checks of files and arguments (build.py), ``--help`` (help.py)
and docs/configuration.md (help.py).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, dataclass_transform

from meshnode.config.faults import ConfigFaults, Fault, Place, Unavailable
from meshnode.config.kinds import Kind

KEY = "meshnode.parameter"
"""Where a field's metadata holds its description."""

MESH_SERVICE = "service"
TCP_PORT = "TCP port"
UDP_PORT = "UDP port"
UNIX_SOCKET = "unix socket"
"""Things that a node has once and that several directives ask for (``DirectiveInfo.claims``)."""


@dataclass(frozen=True, slots=True)
class _Described:
    kind: Kind[Any]
    meaning: str
    bare: bool
    default_text: str | None
    name: str | None
    reloadable: bool


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """What is known of one parameter.

    Attributes:
        field: the attribute that holds it.
        name: lower case, as it is matched.
        kind: how its value is read.
        meaning: one line for help.
        required: whether it must be given.
        bare: whether a value without a name is this parameter's.
        default: the default as a user would write it; empty when there is none to speak of.
        reloadable: whether a change of it can be taken over while the node runs.
    """

    field: str
    name: str
    kind: Kind[Any]
    meaning: str
    required: bool
    bare: bool
    default: str
    reloadable: bool


@dataclass(frozen=True, slots=True)
class DirectiveInfo:
    """What is known of one directive.

    Attributes:
        name: lower case, as it is matched and as it stands in files.
        meaning: one sentence for help.
        section: the heading under which help lists it.
        example: parameters and values as they would be written.
        once: whether a configuration has at most one.
        overridable: whether the command line's parameters go before the file's; else a second one
            is a fault.
        claims: what a node has only once, and the parameters that say which one the directive
            takes. No two directives, of whatever kind, may take the same one. The last parameter
            decides whether any is taken: empty means none, and port 0 means any free one. Ports
            that clash only once host names are looked up are found when the node starts.
        parameters: in the order in which help shows them.
        ignored: names of receptor's parameters that have no effect here.
        reloadable: whether all of it can be changed, added and removed while the node runs.
    """

    name: str
    meaning: str
    section: str
    example: tuple[tuple[str, str], ...]
    once: bool
    overridable: bool
    claims: Mapping[str, tuple[str, ...]]
    parameters: tuple[ParameterInfo, ...]
    ignored: tuple[str, ...]
    reloadable: bool

    def find(self, name: str) -> ParameterInfo | None:
        """Return the parameter of that name (any case), or None."""
        return next((p for p in self.parameters if p.name == name.lower()), None)

    @property
    def bare(self) -> ParameterInfo | None:
        """The parameter that a bare value is for, or None."""
        return next((p for p in self.parameters if p.bare), None)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a directive and its parameters were given, for faults that only show later."""

    place: Place
    parameters: Mapping[str, Place]


NOWHERE = Origin(Place("configuration"), MappingProxyType({}))
"""The origin of directives made in Python."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Directive:
    """Base of all directives: a frozen value that remembers where it was given.

    It compares and shows all of them. If dataclasses made the methods for each, compiling them
    would take a tenth of what a node does before it listens.

    ``origin`` takes no part in comparisons: the same directive from a file and from arguments is
    equal.
    """

    INFO: ClassVar[DirectiveInfo]
    RELOADABLE: ClassVar[bool] = False
    """DirectiveInfo.reloadable; a base of directives says it for all of them."""

    origin: Origin = dataclasses.field(default_factory=lambda: NOWHERE, compare=False, repr=False)

    def _held(self) -> dict[str, object]:
        compared = (f.name for f in dataclasses.fields(self) if f.compare)
        return {name: getattr(self, name) for name in compared}

    def __eq__(self, other: object) -> bool:
        """Whether the other one is the same directive with the same parameters, from anywhere."""
        if type(self) is not type(other):
            return NotImplemented
        assert isinstance(other, Directive)
        return self._held() == other._held()

    def __hash__(self) -> int:
        return hash(tuple(self._held().values()))

    def __repr__(self) -> str:
        held = ", ".join(f"{name}={value!r}" for name, value in self._held().items())
        return f"{type(self).__name__}({held})"

    def place_of(self, parameter: str | None = None) -> Place:
        """Return where a parameter was given; the directive's own place for a default."""
        return self.origin.parameters.get(parameter or "", self.origin.place)

    def error(self, parameter: str | None, text: str) -> ConfigFaults:
        """Return the error for a fault that shows only at start, located like any other."""
        return ConfigFaults([self._fault(parameter, text)])

    def unavailable(self, parameter: str | None, text: str) -> Unavailable:
        """Return the error for what a later start may get.

        ``raise service.unavailable("filename", "/tmp/foo.sock is in use by a running node")``
        """
        return Unavailable([self._fault(parameter, text)])

    def _fault(self, parameter: str | None, text: str) -> Fault:
        subject = (self.INFO.name, parameter) if parameter else (self.INFO.name,)
        return Fault(self.place_of(parameter), subject, text)


def parameter(
    kind: Kind[Any],
    meaning: str,
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    bare: bool = False,
    default_text: str | None = None,
    name: str | None = None,
    reloadable: bool = False,
) -> Any:
    """Declare a field of a directive.

    Args:
        kind: how its value is read, described and bounded.
        meaning: one line for help, without a full stop.
        default: its value where it is not given; without one the parameter is required.
        default_factory: makes the default, where it depends on the machine; may raise Wrong.
        bare: whether a value without a name is this parameter's.
        default_text: the default in words, where the value itself says nothing.
        name: the parameter's name, where it is not the field's.
        reloadable: whether it can change while the node runs, though the directive cannot.
    """
    described = _Described(kind, meaning, bare, default_text, name, reloadable)
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={KEY: described})
    return dataclasses.field(default=default, metadata={KEY: described})


D = TypeVar("D", bound=Directive)

NO_CLAIMS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass_transform(frozen_default=True, field_specifiers=(parameter,))
def directive(
    name: str,
    meaning: str,
    *,
    section: str,
    example: tuple[tuple[str, str], ...] = (),
    once: bool = False,
    overridable: bool = False,
    claims: Mapping[str, tuple[str, ...]] = NO_CLAIMS,
    ignored: tuple[str, ...] = (),
) -> Callable[[type[D]], type[D]]:
    """Make a class of annotated parameters a directive; the arguments are DirectiveInfo's."""

    def declare(cls: type[D]) -> type[D]:
        made = directive_base(cls)
        described = [_info(f) for f in dataclasses.fields(made) if KEY in f.metadata]
        # Help begins with what must be given, and shows what a base brings last.
        own = cls.__annotations__
        described.sort(key=lambda info: (not info.required, info.field not in own))
        made.INFO = DirectiveInfo(
            name=name,
            meaning=meaning,
            section=section,
            example=example,
            once=once,
            overridable=overridable,
            claims=MappingProxyType(claims),
            parameters=tuple(described),
            ignored=ignored,
            reloadable=made.RELOADABLE,
        )
        return made

    return declare


@dataclass_transform(frozen_default=True, field_specifiers=(parameter,))
def directive_base(cls: type[D]) -> type[D]:
    """Make a class the base of directives that share its parameters; it is no directive itself."""
    return dataclass(frozen=True, slots=True, eq=False, repr=False)(cls)


def _info(field: dataclasses.Field[Any]) -> ParameterInfo:
    described: _Described = field.metadata[KEY]
    has_default = field.default is not dataclasses.MISSING
    required = not has_default and field.default_factory is dataclasses.MISSING
    default = described.default_text
    if default is None:
        default = described.kind.show(field.default) if has_default else ""
    return ParameterInfo(
        field=field.name,
        name=described.name or field.name,
        kind=described.kind,
        meaning=described.meaning,
        required=required,
        bare=described.bare,
        default=default,
        reloadable=described.reloadable,
    )
