"""Users and groups of this machine, as work that runs as somebody else needs them."""

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class NoAccount(Exception):
    """There is no such user or group; the text says which parameter is wrong, and why."""

    def __init__(self, parameter: str, text: str) -> None:
        super().__init__(text)
        self.parameter = parameter
        self.text = text


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a command runs.

    Attributes:
        uid, gid: its user and group.
        groups: all groups that it is in.
        name: the user's name, its number if it has none.
        home: the user's home directory.
        shell: the user's shell.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that follow the user."""
        names = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        return {**names, "SHELL": self.shell}

    @property
    def start_directory(self) -> str:
        """Where a command of the user starts: at home, if there is such a directory."""
        return self.home if Path(self.home).is_dir() else "/"


def find_account(user: str, group: str) -> Account:
    """Return as whom a command runs that names a user, a group, or both.

    Raises:
        NoAccount: there is no such user or group.
    """
    entry = _user(user) if user else _user(str(os.geteuid()))
    if isinstance(entry, int):
        if not group:
            text = f"there is no user {entry} on this machine; name its group as well, or add it"
            raise NoAccount("user", text)
        gid = _group(group)
        return Account(entry, gid, (gid,), str(entry), "/", "/bin/sh")
    gid = _group(group) if group else entry.pw_gid
    # Without a user of its own it keeps to the group alone, and out of the node's.
    groups = tuple(sorted(os.getgrouplist(entry.pw_name, gid))) if user else (gid,)
    shell = entry.pw_shell or "/bin/sh"
    return Account(entry.pw_uid, gid, groups, entry.pw_name, entry.pw_dir or "/", shell)


def _user(user: str) -> pwd.struct_passwd | int:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return int(user)
        raise NoAccount("user", f'there is no user "{user}" on this machine') from None


def _group(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise NoAccount("group", f'there is no group "{group}" on this machine') from None
