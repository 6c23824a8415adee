"""The registry finds commands by exactly their name and refuses what could never be found."""

import pytest

from meshnode.control.registry import Command, CommandRegistry, ControlSession


def command(name: str) -> Command:
    async def run(session: ControlSession) -> None:
        return None

    return Command(name, lambda rest: run, lambda body: run)


def test_a_command_is_found_by_exactly_its_name() -> None:
    registry = CommandRegistry()
    work = command("work")
    registry.register(work)
    assert registry.find("work") is work
    assert registry.find("Work") is None
    assert registry.find("") is None


@pytest.mark.parametrize(("name", "fault"), [("work", "already"), ("Work", "case"), ("", "case")])
def test_a_taken_or_unfindable_name_is_refused(name: str, fault: str) -> None:
    registry = CommandRegistry()
    registry.register(command("work"))
    with pytest.raises(ValueError, match=fault):
        registry.register(command(name))
