"""Who may ask what of a node's units.

Three things decide: how the client connected, its signature, and who submitted the unit. A client
of the unix socket may do everything: the permissions of the socket have let it in. Others need a
valid signature for a unit of a verifying work type.

A remote unit is this node's own business with another one. A client from the mesh may touch it if
its own node submitted it, or if it is signed work and the client signs as well; the results and
the cancelling of everything else belong to the submitter.

Where there are access rules, they decide besides, and first: this is the one place that asks them
about work. A unit that a client may not see is answered as one that is not there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from meshnode.control.registry import WAYS, ControlSession, origin_node
from meshnode.errors import (
    AccessRefused,
    CommandError,
    ConnectsNobody,
    MeshnodeError,
    NotAllowed,
    SignatureRefused,
    UnknownUnit,
)
from meshnode.permissions import Verb, Way
from meshnode.security.access import AccessRules, Asker, Grounds, Target, is_own
from meshnode.security.identity import Claimed, Identity, MeshClient, UnknownClient
from meshnode.work.units.runner import WorkType
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.submission import Submission

MOST_KNOWN = 4096
"""Kinds of units of which a list remembers whether a client may see them: some 500 KiB for as long
as it is made. Nodes and types are named by whoever submits work for other nodes."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that asks.

    ``trusted`` is a client of a unix socket; ``node`` is the other node from which a client came
    over the mesh, and empty for all clients of this node. ``client`` is who it is, for records and
    access rules.
    """

    trusted: bool = False
    node: str = ""
    client: Identity = field(default_factory=UnknownClient)
    way: Way = Way.TCP

    @classmethod
    def of(cls, session: ControlSession, claim: Claimed | None = None) -> Self:
        """Return who is at the other end of a control session, and for whom it says it asks."""
        client = session.client
        if claim is not None and isinstance(client, MeshClient):
            client = replace(client, claim=claim)
        return cls(session.kind == "unix", origin_node(session), client, WAYS[session.kind])

    def asker(self, key: str = "") -> Asker:
        """Return who it is for access rules, and the key that it has signed with."""
        return Asker(self.client, self.way, key)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What has let a client do what it asks for."""

    key: str = ""
    """Name of the key of its signature; empty where none was checked."""
    rule: str = ""
    """The access rule, as the logs call it; empty where there are none."""


class UnitAccess:
    """Judges what clients ask, by the node's work types and signatures as they are at that moment.

    ``forwarding`` says whether clients from the mesh may submit unsigned work for other nodes.
    """

    def __init__(
        self,
        node_id: str,
        work_types: Mapping[str, WorkType],
        signatures: Signatures,
        *,
        rules: AccessRules | None = None,
        forwarding: bool = False,
    ) -> None:
        self._node_id = node_id
        self._work_types = work_types
        self._signatures = signatures
        self._rules = AccessRules() if rules is None else rules
        self._forwarding = forwarding
        self.nodes: Callable[[], Iterable[str]] = lambda: (node_id,)
        """Returns the nodes that there are, for work that may run on any of several."""

    def is_local(self, node: str) -> bool:
        """Whether work for that node runs here."""
        return node == self._node_id or node.lower() == "localhost"

    def verifies(self, work_type: str) -> bool:
        """Whether submissions of that type must be signed."""
        kind = self._work_types.get(work_type)
        return kind is not None and kind.verify_signature

    def check_submission(
        self, submission: Submission, caller: Caller, verb: Verb = Verb.SUBMIT, unit_id: str = ""
    ) -> Allowed:
        """Return what lets a client have this run; with ``verb``, adopt a unit of that ID.

        Raises:
            CommandError: there is a signature and nobody asks for one.
            SignatureRefused: it is missing or wrong.
            CannotSign: this node is to sign it, and has no key.
            AccessRefused: it is for another node, and clients from the mesh may not ask for that;
                or the access rules do not let the client.
        """
        local = submission.placement is None and self.is_local(submission.node)
        # A client that has this node sign must sign, too: otherwise anyone who can connect could
        # use this node's key. receptor asks for that only afterwards, with each later command.
        lends_key = submission.sign_work and not local and not caller.trusted
        verifies = lends_key or self.verifies(submission.work_type)
        if lends_key:
            # Before the client's own signature, which could not help.
            self._signatures.require_signer()
        remedy = self._remedy(caller, lends_key=lends_key)
        key, refusal = self._find_key(
            submission.signature,
            "submit with --signwork" if caller.node and local else remedy,
            verifies=verifies,
            trusted=caller.trusted,
        )
        target = Target(
            node=self._node_id if local else submission.node,
            work_type=submission.work_type,
            params=submission.all_params,
            unit_id=unit_id,
        )
        if submission.placement is not None:
            target = self._somewhere(caller.asker(key), verb, target)
        # With the right signature another rule might decide: its lack is what the client is told.
        rule = ""
        if not (refusal and self._rules.know_keys):
            rule = self._rules.require(caller.asker(key), verb, target)
        if refusal is not None:
            raise self._signatures.counted(refusal)
        if caller.node and not local and not verifies and not self._forwarding:
            self._rules.count(verb, Grounds.FORWARDING)
            raise AccessRefused(
                f"this node takes no work for {submission.node} from the mesh; submit it on the "
                f"node where you are (or set node: allowforwarding on {self._node_id})"
            )
        return Allowed(key, rule)

    def _somewhere(self, asker: Asker, verb: Verb, target: Target) -> Target:
        """Return a target like this on a node where the client may have it, if there is one."""
        targets = (replace(target, node=node) for node in self.nodes())
        return next((one for one in targets if self._rules.may(asker, verb, one)), target)

    def may_place(self, status: UnitStatus) -> Callable[[str], bool] | None:
        """Return what says whether who has submitted a unit may have it run on a node; None if on
        all."""
        client, remote = status.submitted_by or UnknownClient(), status.remote
        if not self._rules or remote is None:
            return None
        asker = Asker(client, WAYS.get(client.kind, Way.TCP), status.signed_by)
        target = Target(node="", work_type=remote.work_type, params=remote.params)
        return lambda node: self._rules.may(asker, Verb.SUBMIT, replace(target, node=node))

    def check(self, verb: Verb, target: Target | None, caller: Caller) -> None:
        """Return if the rules let a client; ``target`` None is for anything at all.

        Raises:
            NotAllowed: no rule lets it.
        """
        self._rules.require(caller.asker(), verb, target)

    def check_connect(self, node: str, caller: Caller) -> None:
        """Return if this node connects the client to others, as ``connect`` has it.

        Raises:
            AccessRefused: it came from the mesh.
        """
        if caller.node and not self._forwarding:
            raise ConnectsNobody(node, self._node_id)

    def rehearsal(self) -> "UnitAccess":
        """Return one that judges in the same way at this moment, and tells nobody of it."""
        return UnitAccess(
            self._node_id,
            self._work_types,
            replace(self._signatures, refusals=Counter()),
            rules=self._rules.silent(),
            forwarding=self._forwarding,
        )

    def check_unit(
        self, verb: Verb, unit_id: str, status: UnitStatus, signature: str, caller: Caller
    ) -> Allowed:
        """Return what lets a client cancel, release or read a unit.

        Raises:
            CommandError, SignatureRefused: as for submissions.
            AccessRefused: the unit is none of the client's.
            UnknownUnit: the access rules do not let the client know of it.
            NotAllowed: they let it know of it, and not do this.
        """
        key, refusal = self._find_key(
            signature,
            self._remedy(caller),
            verifies=self._asks_for_signature(status),
            trusted=caller.trusted,
        )
        rule = self._check_rules(verb, unit_id, status, caller, key)
        self._check_origin(verb, status, caller)
        if refusal is not None:
            raise self._signatures.counted(refusal)
        return Allowed(key, rule)

    def check_visible(
        self, verb: Verb, unit_id: str, status: UnitStatus, signature: str, caller: Caller
    ) -> None:
        """Return if the client may know of a unit; its signature is only looked at for rules.

        Raises:
            AccessRefused, UnknownUnit, NotAllowed: as for what may be done with it.
        """
        key = ""
        if signature and self._rules.know_keys and self._asks_for_signature(status):
            key, _ = self._find_key(signature, "", verifies=True, trusted=caller.trusted)
        self._check_rules(verb, unit_id, status, caller, key)
        self._check_origin(verb, status, caller)

    def lister(self, caller: Caller) -> Callable[[str, UnitStatus], bool]:
        """Return whether a list shows the client a unit: it leaves out what it may not know of."""
        decide = self._rules.decider(caller.asker(), Verb.LIST) if self._rules else None
        known: dict[tuple[str, str, bool], bool] = {}

        def shows(unit_id: str, status: UnitStatus) -> bool:
            if not self._is_visible(status, caller):
                return False
            if decide is None:
                return True
            # Rules know no more of a unit, and thousands are alike: a hundred rules are asked once.
            alike = (*self._what(status), is_own(caller.client, _owner(status)))
            allowed = known.get(alike)
            if allowed is None:
                if len(known) == MOST_KNOWN:
                    known.clear()
                allowed = known[alike] = decide(self._target(unit_id, status)).allowed
            return allowed

        return shows

    def is_known(self, unit_id: str, status: UnitStatus, caller: Caller) -> bool:
        """Whether the client may be told the ID of a unit that it has not named."""
        if not self._rules or is_own(caller.client, _owner(status)):
            return True
        return self._sees(caller.asker(), self._target(unit_id, status))

    def may_follow(
        self, unit_id: str, status: UnitStatus, caller: Caller, verb: Verb = Verb.STATUS
    ) -> bool:
        """Whether what follows its submission in the same session may tell the client that."""
        target = self._target(unit_id, status)
        return not self._rules or self._rules.may(caller.asker(), verb, target)

    def _target(self, unit_id: str, status: UnitStatus) -> Target:
        node, work_type = self._what(status)
        return Target(node=node, work_type=work_type, owner=_owner(status), unit_id=unit_id)

    def _what(self, status: UnitStatus) -> tuple[str, str]:
        """Return on which node a unit is, and of which type it is there."""
        if status.remote is None:
            return self._node_id, status.work_type
        return status.remote.node, status.remote.work_type

    def _check_rules(
        self, verb: Verb, unit_id: str, status: UnitStatus, caller: Caller, key: str
    ) -> str:
        """Return which rule allows it; empty without rules. Raises UnknownUnit, NotAllowed."""
        if not self._rules:
            return ""
        asker, target = caller.asker(key), self._target(unit_id, status)
        is_hidden = not self._is_visible(status, caller)
        decision = self._rules.judge(asker, verb, target)
        if decision.allowed and not is_hidden:
            return decision.label
        if decision.allowed:
            self._rules.tell(replace(decision, allowed=False, rule=None, is_others=True))
        # Who has submitted it knows of it: a node that is told otherwise would take it for gone.
        is_known = is_own(caller.client, target.owner) or caller.node == status.submitter != ""
        if is_known:
            raise NotAllowed(f"{verb} {unit_id}")
        if is_hidden or not self._sees(asker, target):
            # The answer for one that is not there: it must not tell that this one is.
            raise UnknownUnit(unit_id)
        raise NotAllowed(f"{verb} {unit_id}")

    def _sees(self, asker: Asker, target: Target) -> bool:
        return any(self._rules.may(asker, verb, target) for verb in (Verb.STATUS, Verb.LIST))

    def _find_key(
        self, signature: str, remedy: str, *, verifies: bool, trusted: bool
    ) -> tuple[str, MeshnodeError | None]:
        """Return the name of the key of a request, or what its signature lacks.

        Who may not know of a unit must not learn from that either, so it is raised later.
        """
        try:
            checked = self._signatures.check(signature, remedy, verifies=verifies, trusted=trusted)
        except (CommandError, SignatureRefused) as refusal:
            return "", refusal
        return checked, None

    def _remedy(self, caller: Caller, *, lends_key: bool = False) -> str:
        """Return what a client can do that has sent no signature."""
        what = "whoever has this node sign work must sign the request" if lends_key else "sign it"
        here = f"on node {self._node_id}" if caller.node else "instead of TCP"
        return f"{what}, or use the unix socket {here}"

    def _check_origin(self, verb: Verb, status: UnitStatus, caller: Caller) -> None:
        """Return if a node that asks has to do with a unit. Raises AccessRefused."""
        if not self._is_visible(status, caller):
            self._rules.count(verb, Grounds.OTHERS)
            raise AccessRefused(
                "this work unit was submitted here for another node: only clients of this node "
                "may ask for it"
            )

    def _is_visible(self, status: UnitStatus, caller: Caller) -> bool:
        remote = status.remote
        if remote is None or not caller.node:
            return True
        return remote.sign_work or status.submitter == caller.node

    def _asks_for_signature(self, status: UnitStatus) -> bool:
        if status.remote is not None:
            return status.remote.sign_work
        if status.verifies is not None:
            # Whatever has become of its type: who signed it can sign, and who did not cannot.
            return status.verifies
        if status.work_type in self._work_types:
            return self.verifies(status.work_type)
        # A unit from before that was recorded, of a type that is gone: it may have been signed.
        return self._signatures.verifier is not None


def _owner(status: UnitStatus) -> Identity | None:
    """Return to whom a unit belongs; of an adopted one another node says who has submitted it."""
    is_adopted = status.remote is not None and status.remote.adopted
    return status.adopted_by if is_adopted else status.submitted_by
