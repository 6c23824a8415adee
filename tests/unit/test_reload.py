"""A changed configuration is taken over whole or not at all, and each refusal names its place."""

import io
import json
import logging
import socket
from pathlib import Path

import pytest
import trio

from meshnode import logs
from meshnode.config import NodeConfig, load_file
from meshnode.errors import ReloadFault, ReloadRefused, Unreachable
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks, LinksRefused
from meshnode.reload import Reloader, changes_that_need_a_restart
from meshnode.resources import DescriptorReserve
from meshnode.security.access import AccessRules
from meshnode.work.configured import ConfiguredWork

BASE = """\
- node:
    id: foo
    datadir: /tmp/somewhere
- local-only
- control-service:
    filename: /tmp/foo.sock
- work-command:
    worktype: one
    command: "true"
- work-command:
    worktype: two
    command: "true"
"""


def work_of(config: NodeConfig, mesh: Mesh) -> ConfiguredWork:
    return ConfiguredWork(config, mesh, 1024, DescriptorReserve(0))


class Setting:
    """A file, a mesh, and the reloader between them."""

    def __init__(self, path: Path, mesh: Mesh) -> None:
        self.path = path
        self.mesh = mesh
        path.write_text(BASE)
        config = load_file(str(path))
        self.work = work_of(config, mesh)
        self.rules = AccessRules(config.rules)
        self.reload = Reloader(
            config, lambda: load_file(str(path)), mesh, ConfiguredLinks(mesh), self.work, self.rules
        )
        self.reload.start()

    async def reload_with(self, old: str, new: str) -> ReloadRefused | None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))
        return await self.reload()

    async def take(self, old: str, new: str) -> None:
        assert await self.reload_with(old, new) is None

    async def refuses(self, old: str, new: str) -> ReloadRefused:
        text = self.path.read_text()
        refusal = await self.reload_with(old, new)
        self.path.write_text(text)
        assert refusal is not None
        return refusal


@pytest.fixture
async def setting(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logs.ROOT)
    async with open_mesh("foo") as mesh:
        setting = Setting(tmp_path / "foo.yml", mesh)
        yield setting


NEED_A_RESTART = {
    "the node's ID": ("id: foo", "id: fox", "{f}:2: node: id: changed"),
    "a parameter that is a default now": (
        "    datadir: /tmp/somewhere\n",
        "",
        "{f}:1: node: datadir: changed",
    ),
    "two parameters": (
        "foo\n    datadir: /tmp/somewhere",
        "fox\n    datadir: /tmp/else",
        "{f}:2: node: id, datadir: changed",
    ),
    "a changed control service": (
        "    filename: /tmp/foo.sock\n",
        "    filename: /tmp/foo.socket\n",
        "{f}:5: control-service: new or changed",
    ),
    "a new control service": (
        "- work-command:\n    worktype: one",
        "- control-service:\n    service: other\n- work-command:\n    worktype: one",
        "{f}:7: control-service: new or changed",
    ),
    "a control service that is gone": (
        "- control-service:\n    filename: /tmp/foo.sock\n",
        "",
        "control-service: removed (it was at {f}:5)",
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), NEED_A_RESTART.values(), ids=NEED_A_RESTART)
async def test_what_needs_a_restart_is_named_with_its_place(
    setting: Setting, old: str, new: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = await setting.refuses(old, new)
    text = f"{expected.format(f=setting.path)}; restart the node to apply it ERRORCODE 3"
    assert str(refusal) == text
    assert refusal.fault is ReloadFault.NEEDS_RESTART
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        f"reload: refused, and nothing was changed: {text}"
    ]


async def test_a_file_that_does_not_parse_is_refused_with_every_fault(setting: Setting) -> None:
    refusal = await setting.refuses("- local-only\n", "- tcp-listener: 0x\n- tcp-peer: 1\n")
    assert str(refusal) == (
        f'{setting.path}:4: tcp-listener: port: "0x" is not a whole number from 0 to 65535; '
        f'{setting.path}:5: tcp-peer: address: "1" is not host:port ERRORCODE 4'
    )
    assert refusal.fault is ReloadFault.UNREADABLE


async def test_a_file_that_is_gone_is_refused(setting: Setting) -> None:
    setting.path.unlink()
    assert str(await setting.reload()).endswith("no such file or directory ERRORCODE 4")


async def test_one_change_that_needs_a_restart_holds_all_others_back(setting: Setting) -> None:
    await setting.refuses(
        "foo\n", "foo\n    firewallrules: [{action: reject}]\n    maxidleconnectiontimeout: 1h\n"
    )
    assert (await setting.mesh.ping("foo")).from_node == "foo"


async def test_a_port_that_is_taken_holds_all_changes_back(setting: Setting) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refusal = await setting.refuses(
            "foo\n    datadir: /tmp/somewhere\n- local-only\n",
            "foo\n    datadir: /tmp/somewhere\n    firewallrules: [{action: reject}]\n"
            f"- tcp-listener: {{bindaddr: 127.0.0.1, port: {port}}}\n",
        )
    assert str(refusal) == (
        f"{setting.path}:5: tcp-listener: port: cannot listen on 127.0.0.1:{port}: "
        "Address already in use ERRORCODE 5"
    )
    assert (await setting.mesh.ping("foo")).from_node == "foo"


async def test_firewall_rules_are_taken_over(setting: Setting) -> None:
    await setting.take("foo\n", "foo\n    firewallrules: [{action: reject, toservice: ping}]\n")
    with pytest.raises(Unreachable, match="blocked by firewall"):
        await setting.mesh.ping("foo")
    await setting.take("reject", "accept")
    assert (await setting.mesh.ping("foo")).from_node == "foo"


async def test_the_log_level_is_taken_over(setting: Setting) -> None:
    await setting.take("- local-only\n", "- local-only\n- log-level: error\n")
    assert logging.getLogger(logs.ROOT).level == logging.ERROR


async def test_the_form_of_the_log_is_taken_over(
    setting: Setting,
) -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    await setting.take("- local-only\n", "- local-only\n- log-level: {format: json}\n")
    assert [json.loads(line)["text"] for line in stream.getvalue().splitlines()] == [
        "log: level info, as json",
        "done",
    ]


async def test_an_unchanged_file_changes_nothing(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    await setting.take("- local-only\n", "# a comment\n- Local-Only\n")
    assert caplog.records[-1].message == "reload: nothing changed"


async def test_each_reload_is_compared_with_the_last_one(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    listener = "- tcp-listener: {bindaddr: 127.0.0.1, port: 0}\n"
    await setting.take("- local-only\n", listener)
    await setting.take("", "")
    assert caplog.records[-1].message == "reload: nothing changed"
    await setting.take(listener, "- local-only\n")
    assert caplog.records[-2].message == "links: closed tcp-listener 127.0.0.1:0"
    assert caplog.records[-1].message == "reload: done"


async def test_a_signal_that_asks_for_the_impossible_ends_nothing(setting: Setting) -> None:
    setting.path.write_text("{")
    await setting.reload.on_signal()


async def test_two_at_a_time_follow_each_other(tmp_path: Path) -> None:
    active = 0

    def load() -> object:
        nonlocal active
        active += 1
        assert active == 1
        trio.from_thread.run(trio.sleep, 0)
        active -= 1
        return config

    (tmp_path / "foo.yml").write_text(BASE)
    config = load_file(str(tmp_path / "foo.yml"))
    async with open_mesh("foo") as mesh, trio.open_nursery() as nursery:
        reloader = Reloader(config, load, mesh, ConfiguredLinks(mesh), work_of(config, mesh))
        reloader.start()
        nursery.start_soon(reloader)
        nursery.start_soon(reloader.on_signal)


async def test_a_refusal_names_what_was_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foo.yml").write_text(BASE)
    config = load_file(str(tmp_path / "foo.yml"))

    async def refuse(*args: object) -> bool:
        raise LinksRefused("foo.yml:3: ws-listener: port: taken", ["the links of x were dropped"])

    async with open_mesh("foo") as mesh:
        links = ConfiguredLinks(mesh)
        reloader = Reloader(config, lambda: config, mesh, links, work_of(config, mesh))
        reloader.start()
        monkeypatch.setattr(links, "apply", refuse)
        assert "taken; the links of x were dropped; all else" in str(await reloader())
    assert "nothing was changed" not in caplog.text


async def test_a_reload_waits_until_the_node_has_started(tmp_path: Path) -> None:
    path = tmp_path / "foo.yml"
    path.write_text(BASE)
    before = load_file(str(path))
    loaded = []

    def load() -> NodeConfig:
        loaded.append(path)
        return before

    async with open_mesh("foo") as mesh, trio.open_nursery() as nursery:
        reloader = Reloader(before, load, mesh, ConfiguredLinks(mesh), work_of(before, mesh))
        nursery.start_soon(reloader)
        await trio.testing.wait_all_tasks_blocked()
        assert loaded == []
        reloader.start()
        assert await reloader() is None
    assert loaded


def test_the_same_directives_elsewhere_in_the_file_are_no_change(tmp_path: Path) -> None:
    head, one, two = BASE.partition("- work-command:\n    worktype: one\n")
    first, _, rest = two.partition("- work-command:\n")
    (tmp_path / "before.yml").write_text(BASE)
    (tmp_path / "after.yml").write_text(head + "- work-command:\n" + rest + one + first)
    before = load_file(str(tmp_path / "before.yml"))
    after = load_file(str(tmp_path / "after.yml"))
    assert before.work_types == after.work_types[::-1]
    assert changes_that_need_a_restart(before, after) == []


RULE = "- access-rule: {action: allow, who: any, do: ping}\n"


async def test_access_rules_are_taken_over(setting: Setting) -> None:
    assert not setting.rules
    await setting.take("- local-only\n", f"- local-only\n{RULE}")
    assert [rule.label for rule in setting.rules.rules] == [f"{setting.path}:5"]
    await setting.take(RULE, f"- log-level: info\n{RULE}")
    assert [rule.label for rule in setting.rules.rules] == [f"{setting.path}:6"]


WRONG_RULES = {
    "an expression that does not parse": ("do: submit, params: /(/", "is not a regular expression"),
    "an unknown key": ("do: ping, form: mesh", "unknown parameter"),
    "an unknown verb": ("do: pinging", "is not one of"),
    "no verb": ("do: ''", "is not one of"),
}


@pytest.mark.parametrize(("wrong", "fault"), WRONG_RULES.values(), ids=WRONG_RULES)
async def test_access_rules_that_do_not_parse_leave_the_old_ones(
    setting: Setting, wrong: str, fault: str
) -> None:
    await setting.take("- local-only\n", f"- local-only\n{RULE}")
    before = setting.rules.rules
    refusal = await setting.refuses("do: ping", wrong)
    assert fault in str(refusal)
    assert setting.rules.rules is before


async def test_that_the_last_access_rule_is_gone_is_said_loudly(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    await setting.take("- local-only\n", f"- local-only\n{RULE}")
    await setting.take(RULE, "")
    assert not setting.rules
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("reload: there is no access rule any more: ")
