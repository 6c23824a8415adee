"""Where and for how long a unit may run: ``--node least --label gpu=1``, ``--timeout``,
``--priority``.

With a rule instead of a node, ``--label`` chooses among nodes; otherwise it gives the unit a label,
as ``--unit-label`` always does.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshctl.api import PLACEMENTS
from meshctl.commands.completion import labels as completed_labels
from meshctl.commands.labels import given_labels
from meshctl.commands.options import SHORT_TIMES, Age, WholeNumber, refuse_empty
from meshctl.render.output import Failure

if TYPE_CHECKING:
    from meshctl.api.submission import JobSettings

Command = TypeVar("Command", bound=Callable[..., Any])

LEAST_PRIORITY, HIGHEST_PRIORITY = -1000, 1000


def sent_time(time: timedelta) -> str:
    """Return a time as nodes read it: seconds, without an exponent, which none of them knows."""
    return f"{time.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def terms_options(command: Command) -> Callable[..., None]:
    """Add the options; what they say goes into ``job`` and ``labels``."""

    @wraps(command)
    def with_terms(
        *args: Any,
        node: str,
        job: "JobSettings",
        label_texts: Sequence[str],
        unit_label_texts: Sequence[str],
        timeout: timedelta | None,
        priority: int,
        **kwargs: Any,
    ) -> None:
        chooses = node in PLACEMENTS
        own = (*unit_label_texts, *(() if chooses else label_texts))
        terms = replace(
            job,
            timeout="" if timeout is None else sent_time(timeout),
            priority=priority,
            where=tuple(label_texts) if chooses else (),
        )
        if any("," in text for text in terms.where):
            raise Failure("--label chooses nodes by one label each: give the option again.")
        command(*args, node=node, job=terms, labels=given_labels(own), **kwargs)

    for option in (
        click.option(
            "--priority",
            type=WholeNumber(LEAST_PRIORITY, HIGHEST_PRIORITY),
            default=0,
            metavar="NUMBER",
            help="Where units wait for each other, the highest goes first; 0 unless given.",
        ),
        click.option(
            "--timeout", type=Age(SHORT_TIMES), help="How long the unit may run, e.g. 30s."
        ),
        click.option(
            *("--unit-label", "unit_label_texts"),
            multiple=True,
            metavar="NAME=VALUE",
            shell_complete=completed_labels,
            help="A label of the unit, also where --label chooses nodes.",
        ),
        click.option(
            *("--label", "label_texts"),
            multiple=True,
            callback=refuse_empty("names no label"),
            metavar="NAME=VALUE",
            shell_complete=completed_labels,
            help="A label of the unit, by which list finds it. With --node any, random or least: "
            "one that the node must have; NAME!=VALUE, NAME and !NAME do as well.",
        ),
    ):
        with_terms = option(with_terms)
    return with_terms
