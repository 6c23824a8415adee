"""Somebody who has certificates made."""

import datetime
from dataclasses import dataclass, field

from meshnode.certs.tasks import Desk

NOW = datetime.datetime(2026, 11, 26, 5, 0, 0, tzinfo=datetime.UTC)


@dataclass
class Scripted:
    """A person who answers, and what they were told."""

    answer: str = "yes"
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def desk(self, now: datetime.datetime = NOW) -> Desk:
        return Desk(self.said.append, self.warned.append, self._ask, now)

    def _ask(self, question: str) -> str:
        self.asked.append(question)
        return self.answer
