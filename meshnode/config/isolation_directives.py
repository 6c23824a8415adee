"""The parameters of work that say as whom it runs, what it sees and what it may do."""

from collections.abc import Iterable
from dataclasses import dataclass

from meshnode.config.faults import FaultLog
from meshnode.config.isolation_values import (
    ACCOUNT,
    ALL,
    UNDOING,
    Isolation,
    capabilities,
    isolation,
    umask,
)
from meshnode.config.kinds import boolean, choice
from meshnode.config.schema import Directive, parameter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class IsolatedDirective(Directive):
    """What every type of work can be kept apart by; see docs/isolation.md."""

    isolation: Isolation | None = parameter(
        isolation(),
        "what it does not see of this machine: `full`, or a map of `pid: true`, `network: none` or "
        "`loopback`, `mount: private` or `readonly`, `tmp: private`, `hostname: job`, `visible`, "
        "`writable` and `hidden`",
        default=None,
        default_text="none",
    )
    user: str = parameter(
        ACCOUNT, "user that it runs as; only root may say so", default="", default_text="the node's"
    )
    group: str = parameter(
        ACCOUNT, "group that it runs in", default="", default_text="those of the user"
    )
    umask: int | None = parameter(
        umask(),
        "permissions that files do not get which it makes",
        default=None,
        default_text="the node's",
    )
    no_new_privileges: bool | None = parameter(
        boolean(),
        "let no program give it privileges, set-uid ones included",
        default=None,
        default_text="true with isolation or seccomp, else false",
        name="no-new-privileges",
    )
    capabilities: tuple[str, ...] | None = parameter(
        capabilities(),
        "capabilities that it keeps of the node's",
        default=None,
        default_text="none with isolation, else all",
    )
    seccomp: str = parameter(
        choice(("default", "none")),
        "whether system calls are refused that jobs have no use for and attacks do",
        default="",
        default_text="default with isolation, else none",
    )

    @property
    def gains_nothing(self) -> bool:
        """Whether no program gives it privileges."""
        given = self.no_new_privileges
        return self.isolation is not None or self.has_filter if given is None else given

    @property
    def kept_capabilities(self) -> tuple[str, ...] | None:
        """The capabilities that it keeps, None for all."""
        if self.capabilities is None:
            return None if self.isolation is None else ()
        return None if self.capabilities == ALL else self.capabilities

    @property
    def has_filter(self) -> bool:
        """Whether its system calls are filtered."""
        return (self.seccomp or ("none" if self.isolation is None else "default")) == "default"

    @property
    def is_isolated(self) -> bool:
        """Whether it runs in any way other than as the node itself does."""
        return (
            self.isolation is not None
            or bool(self.user or self.group)
            or self.umask is not None
            or self.gains_nothing
            or self.kept_capabilities is not None
            or self.has_filter
        )


def check_isolation(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note what contradicts itself, and what would undo an isolation."""
    for one in typed:
        if isinstance(one, IsolatedDirective):
            for name, text in _contradictions(one):
                faults.add(one.place_of(name), one.INFO.name, name, text=text)


def _contradictions(one: IsolatedDirective) -> Iterable[tuple[str, str]]:
    if one.has_filter and not one.gains_nothing:
        yield (
            "no-new-privileges",
            "false stands against the filter of system calls; write seccomp: none as well",
        )
    if one.isolation is None:
        return
    kept = one.kept_capabilities
    if kept is None:
        yield "capabilities", "all of them would let it take its isolation off; name those it needs"
    elif undoing := sorted(UNDOING.intersection(kept)):
        which = ", ".join(undoing)
        yield "capabilities", f"{which} would let it take its isolation off, or look past it"
    if one.isolation.pid and getattr(one, "leave_processes", None):
        text = "all processes of a PID namespace end with its unit; leave out one of the two"
        yield "leave-processes", text
