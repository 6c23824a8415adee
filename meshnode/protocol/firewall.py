"""Firewall rules: which data messages may pass this node (protocol section 3, "Handling").

Rules compare the node hashes in a message's header. These are claims: nothing proves who sent the
message, so rules keep order among honest nodes only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meshnode.errors import ProtocolError
from meshnode.policies import Action, Rule
from meshnode.protocol.messages import HEADER_LENGTH, decode_service
from meshnode.protocol.namehash import NAME_HASH_LENGTH, NameTable

MAX_FLOWS = 4096
"""Flows whose verdict is remembered, some 200 bytes each; a node has far fewer at a time. A full
table is emptied, which costs each flow one more evaluation."""

FLOW_START = 4
"""Where the flow begins in a header: source, destination and their services, 8 bytes each, to the
header's end (protocol section 3)."""

NODE_FIELDS = 2
"""The first two of the four fields are hashes of nodes, the others names of services."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to a message, and why, in words for the log."""

    action: Action
    reason: str


DEFAULT = Verdict(Action.ACCEPT, "no rule matches")

UNKNOWN_NODE = Verdict(Action.DROP, "a rule asks for the name of a node that is not known")
"""Receptor drops messages of unknown nodes, too."""


UNREADABLE_SERVICE = Verdict(Action.DROP, "a rule asks for the name of a service that is no text")
"""Nobody could answer such a message."""


class _Unknown(Exception):
    """A rule asks for a name that is not known, or not text."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Firewall:
    """Judges data messages: the first rule that matches decides, without one they are accepted."""

    def __init__(self, rules: Sequence[Rule], names: NameTable) -> None:
        self._rules = [
            (rule.patterns, Verdict(rule.action, f"rule {number}"))
            for number, rule in enumerate(rules, 1)
        ]
        self._names = names
        self._verdicts: dict[bytes, Verdict] = {}

    def judge(self, message: bytes | bytearray | memoryview) -> Verdict:
        """Return the verdict on a message of at least a header.

        All messages of one flow (nodes and services) are judged alike, the first by the rules.
        """
        flow = bytes(message[FLOW_START:HEADER_LENGTH])
        verdict = self._verdicts.get(flow)
        if verdict is not None:
            return verdict
        try:
            verdict = self._decide(flow)
        except _Unknown as exc:
            return exc.verdict  # not remembered: the name may be learnt at any moment
        if len(self._verdicts) >= MAX_FLOWS:
            self._verdicts.clear()
        self._verdicts[flow] = verdict
        return verdict

    def _decide(self, flow: bytes) -> Verdict:
        for patterns, verdict in self._rules:
            if all(
                pattern is None or pattern.matches(self._field(flow, index))
                for index, pattern in enumerate(patterns)
            ):
                return verdict
        return DEFAULT

    def _field(self, flow: bytes, index: int) -> str:
        field = flow[index * NAME_HASH_LENGTH : (index + 1) * NAME_HASH_LENGTH]
        if index >= NODE_FIELDS:
            try:
                return decode_service(field)
            except ProtocolError:
                raise _Unknown(UNREADABLE_SERVICE) from None
        name = self._names.name(field)
        if name is None:
            raise _Unknown(UNKNOWN_NODE)
        return name
