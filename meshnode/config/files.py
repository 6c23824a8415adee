"""Reads a YAML file into directives as they were written, each with its line.

A file has one document or several, which count as if they stood in one. forms.py reads each.
"""

from collections.abc import Callable, Iterator

import yaml

from meshnode.config.faults import FaultLog, Place, printable
from meshnode.config.forms import read_document
from meshnode.config.kinds import NULL_TAG, STANDARD
from meshnode.config.sources import RawDirective, place_of

MAX_FILE_BYTES = 1 << 20
"""Bytes of a file: a configuration has a few KiB, and a mistaken path may name a device."""


def read_file(path: str, faults: FaultLog) -> list[RawDirective]:
    """Return the directives of a file; whatever is wrong with it goes to ``faults``."""
    whole = Place(path)
    text = _read_text(path, whole, faults)
    if text is None:
        return []
    try:
        roots = [root for root in yaml.compose_all(text, Loader=yaml.SafeLoader) if _has_any(root)]
        merging = Merging(whole, faults)
        for root in roots:
            merging.merge_all(root)
    except yaml.MarkedYAMLError as error:
        _note_marked(error, whole, faults)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        faults.add(Place(path, line), text="not valid YAML: it has a control character")
    except TooMuchMerged:
        text = f"not a configuration: its merge keys look at more than {MAX_MERGED} pairs"
        faults.add(whole, text=text)
    except RecursionError:
        faults.add(whole, text="not a configuration: it is nested too deeply")
    else:
        if not roots:
            faults.add(whole, text="the file is empty; it must have a list of directives, or a map")
        return [raw for root in roots for raw in read_document(root, whole, faults)]
    return []


def _has_any(root: yaml.Node | None) -> bool:
    return root is not None and root.tag != NULL_TAG


def _read_text(path: str, whole: Place, faults: FaultLog) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the path has a NUL
        reason = error.strerror if isinstance(error, OSError) else None
        faults.add(whole, text=f"cannot be read: {(reason or str(error)).lower()}")
        return None
    if len(data) > MAX_FILE_BYTES:
        faults.add(whole, text=f"not a configuration: it has more than {MAX_FILE_BYTES} bytes")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(Place(path, line), text="not valid YAML: it is not UTF-8 text")
        return None


def _note_marked(error: yaml.MarkedYAMLError, whole: Place, faults: FaultLog) -> None:
    mark = error.problem_mark or error.context_mark
    place = Place(whole.source, mark.line + 1) if mark else whole
    problem = printable(error.problem or error.context or "unreadable")
    context = f", {printable(error.context)}" if error.context and error.problem else ""
    if "<block end>" in problem:
        # The parser's message for the commonest mistakes does not help a person.
        problem = 'this does not belong here; check the indentation, the quotes and the "- "'
        context = ""
    faults.add(place, text=f"not valid YAML: {problem}{context}")


# --- Merge keys: ``<<: *anchor`` takes over the pairs of another map
#
# Names of directives and parameters are compared in lower case, keys within values as they are.

MERGE_TAG = STANDARD + "merge"

MAX_MERGED = 1 << 17
"""Pairs that the merge keys of a file may look at: some thousands in the largest files of people. A
map of a file's half that its other half names again and again would take all time and memory."""

NAMED_DEPTH = 2
"""Maps within each other whose keys are names: one of directives, and one of parameters."""

Namer = Callable[[yaml.Node], str | int]
"""Returns by what a key of a map is the same as another."""


class TooMuchMerged(Exception):
    """The merge keys of a file look at more than MAX_MERGED pairs."""


class Merging:
    """Puts in each map of a file, in place of its merge keys, the pairs of what they name."""

    def __init__(self, whole: Place, faults: FaultLog) -> None:
        self._whole = whole
        self._faults = faults
        self._begun: set[int] = set()
        self._looked_at = 0

    def merge_all(self, root: yaml.Node) -> None:
        """Merge in all maps of a document. Raises TooMuchMerged."""
        visited: set[int] = set()
        pending = [(root, 0)]
        while pending:
            node, depth = pending.pop()
            if id(node) in visited:
                continue
            visited.add(id(node))
            if isinstance(node, yaml.MappingNode):
                self._merge(node, _in_lower_case if depth < NAMED_DEPTH else _as_written)
                pending.extend((part, depth + 1) for pair in node.value for part in pair)
            elif isinstance(node, yaml.SequenceNode):
                pending.extend((part, depth) for part in node.value)

    def _merge(self, node: yaml.MappingNode, name: Namer) -> None:
        """Merge one map, once, after those that it names; its own pairs count more than theirs."""
        if id(node) in self._begun:
            return
        self._begun.add(id(node))
        own = [pair for pair in node.value if pair[0].tag != MERGE_TAG]
        known = {name(key) for key, _ in own}
        for key, value in node.value:
            if key.tag != MERGE_TAG:
                continue
            for source in self._sources(value, place_of(key, self._whole)):
                self._merge(source, name)
                self._looked_at += len(source.value)
                if self._looked_at > MAX_MERGED:
                    raise TooMuchMerged
                pairs = [pair for pair in source.value if pair[0].tag != MERGE_TAG]
                taken = [pair for pair in pairs if name(pair[0]) not in known]
                known |= {name(key) for key, _ in taken}
                own += taken
        node.value = own

    def _sources(self, value: yaml.Node, place: Place) -> Iterator[yaml.MappingNode]:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for part in parts:
            if isinstance(part, yaml.MappingNode):
                yield part
            else:
                text = '"<<" takes a map, or a list of maps: write "<<: *anchor"'
                self._faults.add(place, text=text)


def _in_lower_case(key: yaml.Node) -> str | int:
    name = _as_written(key)
    return name.lower() if isinstance(name, str) else name


def _as_written(key: yaml.Node) -> str | int:
    return str(key.value) if isinstance(key, yaml.ScalarNode) else id(key)
