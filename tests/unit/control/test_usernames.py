"""Names of users: found without holding anybody up, and remembered for a while."""

import os
import pwd
import threading

import pytest
import trio

from meshnode.control import usernames
from meshnode.control.usernames import MOST_NAMES, REMEMBERED, RETRY, UserNames
from meshnode.security.identity import MAX_USER


class Users:
    """Stands in for the system; counts what it is asked."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.asked: list[int] = []

    def look(self, uid: int) -> str:
        self.asked.append(uid)
        return self.names.get(uid, "")


async def test_the_system_is_asked_for_the_name_of_this_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usernames, "PATIENCE", 60)  # also where the machine is busy
    assert await UserNames().name_of(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name


async def test_a_user_without_a_name_is_none() -> None:
    assert usernames.look_up(2**32 - 7) == ""
    assert usernames.look_up(2**40) == ""


async def test_a_name_is_looked_up_once_and_again_when_it_may_have_changed(autojump_clock) -> None:
    users = Users({7: "ann"})
    names = UserNames(users.look)
    assert [await names.name_of(7) for _ in range(3)] == ["ann"] * 3
    assert users.asked == [7]
    await trio.sleep(REMEMBERED + 1)
    users.names[7] = "eve"
    assert await names.name_of(7) == "eve"


async def test_a_user_who_gets_a_name_is_known_by_it_soon(autojump_clock) -> None:
    users = Users({})
    names = UserNames(users.look)
    assert await names.name_of(7) == await names.name_of(7) == ""
    assert users.asked == [7]
    users.names[7] = "ann"
    await trio.sleep(RETRY + 1)
    assert await names.name_of(7) == "ann"


async def test_a_directory_service_that_hangs_holds_a_session_up_briefly_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usernames, "PATIENCE", 0.01)
    answers = threading.Event()
    asked = 0

    def hang(uid: int) -> str:
        nonlocal asked
        asked += 1
        answers.wait()
        return "late"

    try:
        names = UserNames(hang)
        assert [await names.name_of(7) for _ in range(100)] == [""] * 100
        assert asked == 1
    finally:
        answers.set()


async def test_a_name_that_is_not_text_for_a_terminal_becomes_so() -> None:
    name = await UserNames(lambda uid: "a\x1b[2J\udc80" + "x" * 1000).name_of(7)
    assert name.isprintable()
    assert len(name) == MAX_USER


async def test_only_so_many_users_are_remembered() -> None:
    users = Users({})
    names = UserNames(users.look)
    for uid in range(MOST_NAMES + 1):
        await names.name_of(uid)
    await names.name_of(0)
    assert users.asked.count(0) == 2


async def test_a_session_without_a_thread_for_the_look_up_has_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def none_left(*args: object, **options: object) -> str:
        raise usernames_error

    usernames_error = OSError("no thread can be started now")
    monkeypatch.setattr(usernames, "in_thread", none_left)
    assert await UserNames().name_of(os.getuid()) == ""
