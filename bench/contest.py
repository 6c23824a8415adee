"""Measures that take turns: floors, ours, and a receptor's if there is one to compare with."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from bench.nodes import Daemon, World
from bench.processes import Usage
from bench.rows import Measure, Options, Row, Target, alternate

Contender = Callable[[Daemon], AbstractContextManager[tuple[World, Mapping[str, Measure]]]]
"""Sets up nodes of a daemon; gives their world and what to measure, by the name of its row."""


@dataclass(frozen=True)
class Contest:
    """The figures of measures that took turns, by name and (unless floors) by daemon."""

    floors: Mapping[str, Sequence[float]]
    ours: Mapping[str, Sequence[float]]
    peers: Mapping[str, Sequence[float]]
    usage: Sequence[Usage]

    def row(self, name: str, unit: str, target: Target, *, floor: str = "", title: str = "") -> Row:
        """Return the row of one measure against the floor of that name.

        A floor that needs a node, or what one said, is among ours. The row is called ``title``,
        if that is not the measure's name.
        """
        return Row(
            title or name,
            unit,
            self.ours[name],
            target,
            {**self.ours, **self.floors}[floor] if floor else (),
            self.peers.get(name, ()),
            self.usage,
        )


def hold(options: Options, floors: Mapping[str, Measure], contender: Contender) -> Contest:
    """Measure floors, our nodes and the peer's in turn, each ``options.repeats`` times."""
    with ExitStack() as stack:
        entered = [stack.enter_context(contender(daemon)) for daemon in options.daemons]
        measures = {("", name): measure for name, measure in floors.items()}
        for i, (_, own) in enumerate(entered):
            measures |= {(str(i), name): measure for name, measure in own.items()}
        figures = alternate(measures, options.repeats)
        usage = entered[0][0].usage()
    by_side = dict(_sides(figures))
    return Contest(by_side[""], by_side["0"], by_side.get("1", {}), usage)


def _sides(
    figures: Mapping[tuple[str, str], list[float]],
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    for side in ("", "0", "1"):
        yield side, {name: values for (of, name), values in figures.items() if of == side}
