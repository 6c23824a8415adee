"""Labels of units: names with values, by which clients find their units again.

The node keeps and shows them, and sends them along with work for another meshnode. It draws no
conclusion from them.
"""

import json
from collections.abc import Mapping
from sys import intern

from meshnode.config.names import (
    LABEL_NAME,
    MAX_LABEL_CHARACTERS,
    MAX_LABEL_NAME,
    MAX_LABELS,
    are_few_labels,
)
from meshnode.errors import CommandError
from meshnode.protocol.control import LABELS_KEY
from meshnode.work.units.jsonreader import NOTHING

BATCH_LABEL = "batch"
"""The label by which the units of a batch are found with those of others."""


def parse_labels(text: str) -> Mapping[str, str]:
    """Return the labels of a submission; an empty text has none.

    Raises:
        CommandError: they are none, or beyond the bounds.
    """
    if not text:
        return NOTHING
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, dict):
        raise CommandError(f"field {LABELS_KEY} must be an object in JSON")
    for name, value in labels.items():
        if not is_label(name, value):
            raise CommandError(
                f"label {name[:MAX_LABEL_NAME]!r}: a name has at most {MAX_LABEL_NAME} of the "
                "characters A-Za-z0-9._/- with a letter or digit at both ends, "
                "a value is a printable text"
            )
    if not are_few_labels(labels):
        raise CommandError(
            f"a unit has at most {MAX_LABELS} labels of {MAX_LABEL_CHARACTERS} characters in all"
        )
    return _kept(labels)


def recorded_labels(data: object) -> Mapping[str, str]:
    """Return the labels of a record, which may be damaged: then the unit has none."""
    if not isinstance(data, dict) or not all(is_label(*label) for label in data.items()):
        return NOTHING
    return _kept(data) if are_few_labels(data) else NOTHING


def labels_text(labels: Mapping[str, str]) -> str:
    """Return the text from which :func:`parse_labels` makes these labels."""
    return json.dumps(dict(labels))


def is_label(name: str, value: object) -> bool:
    """Whether that is a label: of a unit, or of a node."""
    is_name = len(name) <= MAX_LABEL_NAME and LABEL_NAME.fullmatch(name) is not None
    return is_name and isinstance(value, str) and value.isprintable()


def _kept(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return labels to be kept in memory: thousands of units may have the same."""
    return {intern(name): intern(value) for name, value in labels.items()} or NOTHING
