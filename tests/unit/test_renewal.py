"""Keys and certificates are read anew when their files change, and what was there is kept until
then."""

import datetime
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from signing_keys import new_key, private_pem, public_pem
from tls_makers import DAY, Authority, Made, authority

from meshnode import logs, renewal
from meshnode.config import load_file
from meshnode.errors import ReloadFault, SignatureRefused
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.reload import Reloader
from meshnode.renewal import KeyRenewal
from meshnode.resources import DescriptorReserve
from meshnode.security.keyfiles import look_at_all
from meshnode.security.tls import Demand, TlsSettings
from meshnode.security.tlsstore import TlsStore, read_settings
from meshnode.security.tokens import Signer
from meshnode.work.configured import ConfiguredWork
from meshnode.work.units.access import Caller
from meshnode.work.units.submission import Submission

CONFIG = """\
- node: {id: foo, datadir: D/data}
- local-only
- tls-server: {name: s, cert: D/live/tls.crt, key: D/live/tls.key, clientcas: D/live/ca.crt}
- work-signing: D/live/sign.pem
- work-verification: D/live/check.pem
- work-command: {worktype: one, command: 'true', verifysignature: true}
"""
KEYS = [new_key(), new_key()]
WAYS = ["written", "renamed", "linked"]


class Lines(logging.Handler):
    """The log's lines, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._more.set()

    async def wait(self, text: str, times: int = 1) -> None:
        with trio.fail_after(60):
            while sum(text in line for line in self.lines) < times:
                self._more = trio.Event()
                await self._more.wait()


class Running:
    """A node's keys as they are kept, and the directory that they come from.

    ``live`` leads to the files by a link, as the volumes of Kubernetes do.
    """

    def __init__(self, directory: Path, lines: Lines) -> None:
        self.directory = directory
        self.lines = lines
        self.live = directory / "live"
        self.files: dict[str, bytes] = {"ca.crt": authority().pem}
        self.key(KEYS[0])
        self.certificate(authority().issue("first", nodes=["foo"]))
        self._versions = 0
        self._write(self._version())
        (directory / "foo.yml").write_text(CONFIG.replace("D/", f"{directory}/"))
        self.config = load_file(str(directory / "foo.yml"))
        self.tls = TlsStore()
        self.mesh: Mesh

    def key(self, key) -> None:
        self.files |= {"sign.pem": private_pem(key), "check.pem": public_pem(key)}

    def certificate(self, made: Made) -> None:
        self.files |= {"tls.crt": made.pem, "tls.key": made.key_pem}

    def _version(self) -> Path:
        self._versions += 1
        place = self.directory / f"v{self._versions}"
        place.mkdir(mode=0o700)
        if not self.live.exists():
            self.live.symlink_to(place.name)
        return place

    def _write(self, place: Path) -> None:
        for name, content in self.files.items():
            (place / name).write_bytes(content)
            (place / name).chmod(0o600)

    def put(self, way: str = "renamed") -> None:
        """Put the files where the node looks for them."""
        if way == "linked":
            place = self._version()
            self._write(place)
            link = self.directory / "link"
            link.symlink_to(place.name)
            link.rename(self.live)
        elif way == "written":
            self._write(self.live)
        else:
            self._write(self._version())
            for name in self.files:
                (self.directory / f"v{self._versions}" / name).rename(self.live / name)

    async def run(self, nursery: trio.Nursery, mesh) -> None:
        looks = look_at_all(self.config)
        self.tls.apply(read_settings(self.config))
        self.work = ConfiguredWork(self.config, mesh, 1024, DescriptorReserve(0))
        self.keys = KeyRenewal(self.config, self.work, self.tls, looks)
        await nursery.start(self.work.units.watcher.run)
        nursery.start_soon(self.keys.run)

    def shown(self) -> str:
        settings: TlsSettings = self.tls.server("s")()
        assert settings.own is not None
        return settings.own.certificate.subject

    def takes(self, key) -> bool:
        submission = Submission("foo", "one", signature=Signer(key, 300.0).sign("foo"))
        try:
            self.work.units.access.check_submission(submission, Caller())
        except SignatureRefused:
            return False
        return True


@pytest.fixture
async def running(tmp_path: Path, monkeypatch, nursery) -> AsyncIterator[Running]:
    monkeypatch.setattr(renewal, "QUIET", 0.02)
    lines = Lines()
    logger = logging.getLogger(logs.ROOT)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(lines)
    try:
        async with open_mesh("foo") as mesh:
            running = Running(tmp_path, lines)
            await running.run(nursery, mesh)
            await trio.testing.wait_all_tasks_blocked(0.01)
            running.mesh = mesh
            yield running
            nursery.cancel_scope.cancel()
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


@pytest.mark.parametrize("way", WAYS)
async def test_keys_that_are_replaced_count_as_soon_as_their_files_do(running, way):
    assert running.takes(KEYS[0])
    running.key(KEYS[1])
    running.put(way)
    await running.lines.wait("work: signing key: changed, now SHA256:")
    await running.lines.wait("work: verification key: changed, now check (SHA256:")
    assert running.takes(KEYS[1])
    assert not running.takes(KEYS[0])


@pytest.mark.parametrize("way", WAYS)
async def test_a_certificate_that_is_replaced_is_shown_from_then_on(running, way):
    begun = running.tls.server("s")()
    running.certificate(authority().issue("second", nodes=["foo"]))
    running.put(way)
    await running.lines.wait("keys: tls-server s: read anew; it shows CN=second, which holds until")
    assert running.shown() == "CN=second"
    # A connection that began before goes on with what it had.
    assert begun.own.certificate.subject == "CN=first"
    assert not [line for line in running.lines.lines if "still used" in line]


async def test_other_cas_are_trusted_from_then_on(running):
    running.files["ca.crt"] = Authority("Other CA").pem
    running.put()
    await running.lines.wait("keys: tls-server s: read anew")


async def test_each_replacement_counts_however_many_there_are(running):
    for number in range(6):
        running.certificate(authority().issue(f"n{number}", nodes=["foo"]))
        running.put(WAYS[number % len(WAYS)])
        await running.lines.wait(f"CN=n{number},")
        assert running.shown() == f"CN=n{number}"


@pytest.mark.parametrize(
    "broken",
    [
        {"tls.crt": b""},
        {"tls.crt": authority().issue("x", nodes=["foo"]).pem[:300]},
        {"tls.crt": authority().issue("x", nodes=["foo"]).pem},
        {"tls.crt": authority().issue("x", nodes=["bar"]).pem},
        {"tls.key": authority().issue("x").key_pem[:100]},
        {"tls.key": authority().issue("x").key_pem},
        {"ca.crt": b"-----BEGIN CERTIFICATE-----\n"},
        {"ca.crt": authority().pem + authority().pem[:99]},
        {"ca.crt": None},
    ],
    ids=[
        *("empty", "half", "not of the key", "of another", "half key", "other key"),
        *("no cas", "half of the cas", "gone"),
    ],
)
async def test_what_cannot_be_used_is_told_once_and_what_was_there_is_kept(running, broken):
    good = dict(running.files)
    for name, content in broken.items():
        if content is None:
            (running.live / name).unlink()
            del running.files[name]
        else:
            running.files[name] = content
    running.put()
    await running.lines.wait("; what was there before is still used")
    assert running.shown() == "CN=first"
    # Another file that changes has it read again, and it is not told again.
    running.key(KEYS[1])
    running.put()
    await running.lines.wait("work: signing key: changed")
    told = [line for line in running.lines.lines if "still used" in line]
    assert len(told) == 1
    assert told[0].startswith(f"keys: {running.directory}/foo.yml:3: tls-server: ")
    assert any("still used" in line for line in running.keys.warnings())
    running.files |= good
    running.certificate(authority().issue("second", nodes=["foo"]))
    running.put()
    await running.lines.wait("CN=second")
    assert not any("still used" in line for line in running.keys.warnings())


async def test_a_key_that_cannot_be_used_holds_no_certificate_back(running):
    running.files["check.pem"] = b"-----BEGIN PUBLIC KEY-----\n"
    running.certificate(authority().issue("second", nodes=["foo"]))
    running.put()
    await running.lines.wait("CN=second")
    await running.lines.wait("work-verification: publickey: ")
    assert running.takes(KEYS[0])


async def test_a_directory_that_goes_and_comes_back_is_still_watched(running):
    old = running.live.resolve()
    old.rename(running.directory / "away")
    await running.lines.wait("still used")
    running.certificate(authority().issue("second", nodes=["foo"]))
    old.mkdir(mode=0o700)
    running.put("written")
    await running.lines.wait("CN=second")


async def test_who_opens_a_key_to_others_is_told_at_once(running):
    key = running.live / "tls.key"
    key.chmod(0o644)
    await running.lines.wait(
        f'"{key}" can be read by other users (mode 0644); now: chmod 600 {key}'
    )
    assert any("mode 0644" in line for line in running.keys.warnings())
    key.chmod(0o600)
    running.key(KEYS[1])
    running.put()
    await running.lines.wait("work: signing key: changed")
    assert running.keys.warnings() == []


async def test_what_is_written_without_another_content_changes_nothing(running):
    running.put()
    running.key(KEYS[1])
    running.put()
    await running.lines.wait("work: signing key: changed")
    assert not [line for line in running.lines.lines if "tls-server" in line]


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (-DAY, 20 * DAY, "expires at {ends}, in 19 days; renew it"),
        (-2 * DAY, -DAY, "expired at {ends}, and now it is {now}"),
        (DAY, 2 * DAY, "is not yet valid: it begins at {begins}, and now it is {now}"),
        (-DAY, 32 * DAY, ""),
    ],
)
async def test_a_certificate_that_does_not_hold_is_a_warning_with_both_times(
    running, begins, ends, words
):
    now = datetime.datetime.now(datetime.UTC)
    running.certificate(authority().issue("second", nodes=["foo"], begins=begins, ends=ends))
    running.put()
    await running.lines.wait("CN=second")
    times = {"begins": now + begins, "ends": now + ends, "now": now}
    shown = {name: f"{time:%Y-%m-%d}" for name, time in times.items()}
    found = running.keys.warnings()
    assert len(found) == bool(words)
    for part in words.format(**shown).split(", ") if words else []:
        assert part in found[0]
    if words:
        assert found[0].startswith(f"{running.directory}/foo.yml:3: tls-server: cert: ")
        await running.lines.wait(part)


async def test_cas_of_which_the_last_ends_are_warned_of_and_one_that_holds_is_enough(running):
    ends = Authority("Other CA", ends=20 * DAY).pem
    running.files["ca.crt"] = ends
    running.put()
    await running.lines.wait("read anew")
    (found,) = running.keys.warnings()
    head = f'{running.directory}/foo.yml:3: tls-server: clientcas: a CA in "{running.live}/ca.crt"'
    assert found.startswith(f"{head}: the one that ends last (CN=Other CA) expires at ")
    assert found.endswith(", in 19 days; renew it")
    running.files["ca.crt"] = ends + authority().pem
    running.put()
    await running.lines.wait("read anew", times=2)
    assert running.keys.warnings() == []


async def test_a_ca_between_that_ends_is_warned_of(running):
    between = Authority("between", above=authority(), ends=20 * DAY)
    running.certificate(between.issue("second", nodes=["foo"]))
    running.put()
    await running.lines.wait("CN=second")
    (found,) = running.keys.warnings()
    assert "/tls.crt\": the CA's certificate in it (CN=between) expires at " in found


async def test_a_certificate_that_ends_is_logged_once_a_day(
    tmp_path, autojump_clock, caplog, monkeypatch, nursery
):
    # The mesh does something each ten seconds, and a day of that takes two seconds to jump over.
    monkeypatch.setattr(renewal, "DAY", 600)
    async with open_mesh("foo") as mesh:
        running = Running(tmp_path, Lines())
        running.certificate(authority().issue("ends", nodes=["foo"], ends=20 * DAY))
        running.put("written")
        await running.run(nursery, mesh)
        await trio.sleep(3.5 * 600)
        assert caplog.text.count("in 19 days; renew it") == 3
        nursery.cancel_scope.cancel()


# --- what a reload does -------------------------------------------------------------------------


async def reload_with(running, text: str):
    mesh = running.mesh
    path = running.directory / "foo.yml"
    path.write_text(text)
    links = ConfiguredLinks(mesh, running.tls)
    reload = Reloader(
        *(running.config, lambda: load_file(str(path)), mesh, links, running.work),
        keys=running.keys,
    )
    reload.start()
    return await reload()


async def test_a_reload_takes_tls_directives_over_without_a_restart(running):
    text = CONFIG.replace("D/", f"{running.directory}/")
    running.certificate(authority().issue("second", nodes=["foo"]))
    running.put("linked")
    live = running.live
    changed = (
        text.replace("{name: s", "{requireclientcert: true, name: s")
        .replace(
            "- work-signing",
            f"- tls-client: {{name: c, rootcas: {live}/ca.crt}}\n"
            f"- tls-server: {{name: t, cert: {live}/tls.crt, key: {live}/tls.key}}\n"
            "- tcp-listener: {port: 0, bindaddr: 127.0.0.1, tls: t}\n- work-signing",
        )
        .replace("- local-only\n", "")
    )
    assert await reload_with(running, changed) is None
    assert running.shown() == "CN=second"
    assert running.tls.server("s")().demand is Demand.REQUIRED
    assert running.tls.find_client("c") is not None
    await running.lines.wait("keys: tls-client c: added; it shows no certificate")
    await running.lines.wait("keys: tls-server t: added; it shows CN=second")
    # Its files are watched from now on.
    running.certificate(authority().issue("third", nodes=["foo"]))
    running.put("linked")
    await running.lines.wait("keys: tls-server t: read anew; it shows CN=third")


async def test_a_reload_says_which_tls_directives_are_gone_and_clients_no_longer_find_them(running):
    text = CONFIG.replace("D/", f"{running.directory}/")
    server = text.splitlines()[2]
    assert await reload_with(running, text.replace(f"{server}\n", "")) is None
    assert "keys: tls-server s: removed" in running.lines.lines
    assert running.tls.find_server("s") is None
    assert running.tls.certificates == ()


async def test_a_certificate_that_cannot_be_used_holds_a_whole_reload_back(running):
    text = CONFIG.replace("D/", f"{running.directory}/")
    bad = running.directory / "bad.crt"
    bad.write_bytes(b"x")
    added = f"- tls-client: {{name: c, rootcas: {bad}}}\n- log-level: debug\n"
    refusal = await reload_with(running, text + added)
    assert str(refusal).startswith(f'{running.directory}/foo.yml:7: tls-client: rootcas: "{bad}" ')
    assert refusal.fault is ReloadFault.FAILED
    assert running.tls.find_client("c") is None
    assert running.shown() == "CN=first"


async def test_a_reload_warns_again_of_keys_that_others_can_read(running):
    (running.live / "tls.key").chmod(0o644)
    await running.lines.wait("can be read by other users (mode 0644)")
    text = (running.directory / "foo.yml").read_text()
    assert await reload_with(running, text) is None
    await running.lines.wait("can be read by other users (mode 0644)", times=2)


async def test_a_reload_without_a_change_leaves_connections_their_settings(running):
    before = running.tls.server("s")()
    text = (running.directory / "foo.yml").read_text()
    assert await reload_with(running, f"# a comment\n{text}") is None
    assert running.tls.server("s")() is before
    assert running.lines.lines[-1] == "reload: nothing changed"
