"""Which limits of a configuration this machine keeps; one that it cannot refuses a start.

A type with ``limits-optional: true`` goes without those that cannot be kept, and a warning says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshnode.config import NodeConfig, WorkDirective
from meshnode.config.faults import ConfigFaults, Fault
from meshnode.config.limit_values import JobLimits
from meshnode.work.local.hierarchies import Hierarchies, look

PARAMETER = "limits"


@dataclass(frozen=True, slots=True)
class KeptLimits:
    """What becomes of the limits of a configuration.

    Attributes:
        of_type: the limits that are kept, by work type; a type without limits is not in it.
        warnings: one for each limit that is not kept and need not be.
        in_words: what keeps limits; empty if none are wanted.
    """

    of_type: Mapping[str, JobLimits]
    warnings: tuple[Fault, ...] = ()
    in_words: str = ""


def kept_limits(config: NodeConfig, find: Callable[[], Hierarchies] = look) -> KeptLimits:
    """Return what this machine keeps of the limits of a configuration; nothing is changed.

    Raises:
        ConfigFaults: it cannot keep one, and must.
    """
    wanted = [one for one in config.work_types if one.limits is not None]
    if not wanted:
        return KeptLimits({})
    found = find()
    faults: list[Fault] = []
    warnings: list[Fault] = []
    kept: dict[str, JobLimits] = {}
    for one in wanted:
        limits = one.limits or JobLimits()
        for name in limits.values:
            if reason := found.refusal((name,)):
                if one.limits_optional:
                    limits = limits.without(name)
                    text = f"{reason}; units of type {one.worktype} run without this limit"
                    warnings.append(_fault(one, text))
                else:
                    text = f"{reason}; or set limits-optional: true"
                    faults.append(_fault(one, text))
        kept[one.worktype] = limits
    if faults:
        raise ConfigFaults(faults)
    return KeptLimits(kept, tuple(warnings), found.in_words)


def _fault(directive: WorkDirective, text: str) -> Fault:
    subject = (directive.INFO.name, PARAMETER)
    return Fault(directive.place_of(PARAMETER), subject, text)
