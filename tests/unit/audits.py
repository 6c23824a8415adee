"""An audit log that keeps its events, for tests of what is told to it."""

from meshnode.errors import NotAudited
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import AuditEvent, Kind


class KeptAudit(AuditLog):
    """Keeps events in memory; with ``refuses`` what must be on disk first is refused."""

    def __init__(self) -> None:
        super().__init__("foo")
        self.events: list[AuditEvent] = []
        self.refuses = False

    @property
    def is_on(self) -> bool:
        return True

    def record(self, event: AuditEvent) -> None:
        self.events.append(event)

    async def require(self, event: AuditEvent) -> None:
        if self.refuses:
            raise NotAudited("the audit log cannot be written")
        self.record(event)

    @property
    def kinds(self) -> list[Kind]:
        """What the events are about, in their order."""
        return [event.kind for event in self.events]

    def only(self, kind: Kind) -> AuditEvent:
        """Return the one event of a kind."""
        (event,) = (event for event in self.events if event.kind is kind)
        return event
