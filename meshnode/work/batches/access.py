"""Who may do what with a batch: it is judged as the units are that it consists of.

Who may not know of a batch is told that there is none.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from meshnode.errors import AccessRefused, CommandError, NotAllowed
from meshnode.permissions import Verb
from meshnode.security.access import Target
from meshnode.work.batches.batch import Batch
from meshnode.work.units.access import Caller
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.quotas import account

LOOKING: Final = frozenset({Verb.STATUS, Verb.LIST})
"""What changes nothing of a batch."""


class UnknownBatch(CommandError):
    """No batch has that ID."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"unknown batch {batch_id[:64]}")


class BatchAccess:
    """Judges clients; ``find`` returns the batch of an ID, or raises UnknownBatch."""

    def __init__(self, units: UnitManager, find: Callable[[str], Batch]) -> None:
        self._units = units
        self._access = units.access
        self._find = find

    def find(self, batch_id: str, caller: Caller, verb: Verb) -> Batch:
        """Return a batch with which a client may do something. Raises MeshnodeError."""
        batch = self._find(batch_id)
        if not self.sees(batch, caller, Verb.STATUS) and not self.sees(batch, caller, Verb.LIST):
            raise UnknownBatch(batch_id)
        for target in self._judged(batch, caller, verb):
            self._access.check(verb, target, caller)
        if verb not in LOOKING:
            self._check_signed(batch, caller)
        return batch

    def sees(self, batch: Batch, caller: Caller, verb: Verb) -> bool:
        """Whether a client may do something with a batch; the audit log hears nothing of it."""
        if caller.node and caller.node != batch.spec.caller.node:
            return False
        try:
            for target in self._judged(batch, caller, verb):
                self._access.rehearsal().check(verb, target, caller)
        except NotAllowed:
            return False
        return True

    def may(self, batch: Batch, caller: Caller) -> dict[str, bool]:
        """Return which actions are for a client; the audit log hears nothing of it."""
        needs_no_key = not _is_refused(partial(self._check_signed, batch, caller))
        is_own = not _is_refused(partial(self.check_own, batch, caller))
        cancels = needs_no_key and self.sees(batch, caller, Verb.CANCEL)
        return {
            "status": self.sees(batch, caller, Verb.STATUS),
            "cancel": cancels,
            "release": needs_no_key and self.sees(batch, caller, Verb.RELEASE),
            "retry": cancels and is_own,
        }

    def _judged(self, batch: Batch, caller: Caller, verb: Verb) -> list[Target]:
        """Return of which targets a client is judged: of all, and who has submitted the batch of
        one that is allowed, since members of others were refused."""
        targets = [*self._targets(batch)]
        if account(caller.client) == account(batch.spec.caller.client):
            for target in targets:
                try:
                    self._access.rehearsal().check(verb, target, caller)
                except NotAllowed:
                    continue
                return [target]
        return targets

    def _targets(self, batch: Batch) -> Iterator[Target]:
        """Yield what its members are; who may not do it to each does it to none."""
        for work_type, node in batch.spec.aims:
            is_local = not node or self._access.is_local(node)
            yield Target(
                node=self._units.node_id if is_local else node,
                work_type=work_type,
                owner=batch.spec.caller.client,
                unit_id=batch.batch_id,
            )

    def _check_signed(self, batch: Batch, caller: Caller) -> None:
        """Refuse who would have to sign what is asked of each unit."""
        spec = batch.spec
        is_signed = spec.has_lines or spec.fields.get("signwork") == "true"
        if not caller.trusted and (is_signed or self._access.verifies(spec.work_type)):
            self.check_own(batch, caller)

    def check_own(self, batch: Batch, caller: Caller) -> None:
        """Refuse who has not submitted a batch and does not come by the unix socket."""
        is_own = account(caller.client) == account(batch.spec.caller.client)
        if not (caller.trusted or is_own):
            raise AccessRefused(
                f"batch {batch.batch_id} is another client's: use the unix socket of this node"
            )


def _is_refused(check: Callable[[], None]) -> bool:
    try:
        check()
    except AccessRefused:
        return True
    return False
