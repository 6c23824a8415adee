"""``meshnode cert``: its options, what it says, and how it ends."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from meshnode.certs import issuing
from meshnode.certs.commands import cert
from meshnode.cli import ExitCode, main
from meshnode.security.certificates import load_certificates

Capture = pytest.CaptureFixture[str]
Files = Callable[[], dict[str, tuple[int, bytes]]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def run(line: str) -> int:
    return main(["cert", *line.split()])


def test_three_commands_make_a_certificate_that_a_fourth_finds_good(
    capsys: Capture, answer: Callable[[str], None], files: Files
) -> None:
    answer("yes\n")
    assert run("init") == ExitCode.OK
    assert run("request --node foo --dns foo.example.org") == ExitCode.OK
    assert run("sign foo.csr") == ExitCode.OK
    assert run("verify foo.crt --key foo.key --node foo --host foo.example.org") == ExitCode.OK
    assert {name: oct(mode) for name, (mode, _) in files().items()} == {
        "ca.crt": "0o644",
        "ca.key": "0o600",
        "foo.csr": "0o644",
        "foo.key": "0o600",
        "foo.crt": "0o644",
    }
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "Sign certificate (yes/no)? made foo.crt" in captured.out


def test_without_an_answer_nothing_is_signed(
    capsys: Capture, answer: Callable[[str], None], files: Files
) -> None:
    run("init")
    run("request --node foo")
    before = files()
    answer("")
    assert run("sign foo.csr") == ExitCode.FAILED
    assert capsys.readouterr().err == (
        "meshnode: not signed: nobody has answered; to sign unasked: --yes, or verify: true\n"
    )
    assert files() == before
    assert run("sign foo.csr --yes") == ExitCode.OK


@pytest.mark.parametrize("command", ["init", "request --node foo", "sign foo.csr --yes"])
def test_a_second_time_needs_force(command: str, capsys: Capture, files: Files) -> None:
    for first in ("init", "request --node foo", "sign foo.csr --yes"):
        assert run(first) == ExitCode.OK
    before = files()
    assert run(command) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert error.startswith("meshnode: ")
    assert error.endswith("is there already; name another file, or replace it by --force\n")
    assert files() == before
    assert run(f"{command} --force") == ExitCode.OK
    assert files() != before


@pytest.mark.parametrize("command", ["init", "request --node foo", "mesh --node foo --out ."])
def test_no_key_is_made_for_files_that_cannot_be(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long RSA key takes a minute."""
    run("init")
    run("request --node foo")
    monkeypatch.setattr(issuing, "make_key", lambda bits: pytest.fail("made a key"))
    assert run(command) == ExitCode.FAILED
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "days"),
    [
        ("--not-before 2020-01-01T00:00:00Z --not-after 2020-01-31T00:00:00Z", 30),
        ("--not-before 2020-01-01T00:00:00Z --days 7", 7),
    ],
)
@pytest.mark.parametrize("command", ["init --out-cert x.crt --out-key x.key",
                                     "sign foo.csr --yes --out-cert x.crt"])  # fmt: skip
def test_a_certificate_holds_as_long_as_it_is_said(command: str, options: str, days: int) -> None:
    run("init")
    run("request --node foo")
    assert run(f"{command} {options}") == ExitCode.OK
    (made,) = load_certificates(Path("x.crt"))
    assert made.not_before.isoformat() == "2020-01-01T00:00:00+00:00"
    assert (made.not_after - made.not_before).days == days


@pytest.mark.parametrize(
    ("names", "stem", "common_name"),
    [
        ("--node foo --dns bar", "foo", "CN=foo"),
        ("--dns *.example.org", "_.example.org", r"CN=*.example.org"),
        ("--ip 10.0.0.7", "10.0.0.7", "CN=10.0.0.7"),
        (f"--node {'x' * 200}", "x" * 200, f"CN={'x' * 64}"),
    ],
)
def test_files_and_common_name_are_named_after_the_first_name(
    names: str, stem: str, common_name: str, capsys: Capture
) -> None:
    assert run(f"request {names}") == ExitCode.OK
    assert Path(f"{stem}.key").exists()
    run(f"show {stem}.csr")
    assert f"  Subject: {common_name}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("sing", 'cert: there is no command "sing"; did you mean "sign"?; '
         "see meshnode cert --help"),
        ("xyz", 'cert: there is no command "xyz"; the commands are init, mesh, request, show, '
         "sign, verify; see meshnode cert --help"),
        ("init --days 1 --bits 2048 --days 2", "cert init: --days is given 2 times; "
         "see meshnode cert init --help"),
        ("sign a.csr b.csr", "cert sign: Got unexpected extra argument (b.csr); "
         "see meshnode cert sign --help"),
        ("sign", "cert sign: Missing argument 'REQ'; see meshnode cert sign --help"),
        ("request", "cert request: name whom it is for: --node ID, and --dns NAME or --ip ADDRESS "
         "of its host; see meshnode cert request --help"),
        ("request --node foo --in-key k --bits 2048", "cert request: --in-key uses the key that "
         "there is; --out-key and --bits are for a new one; see meshnode cert request --help"),
        ("init --days 1 --not-after 2027-01-01T00:00:00Z", "cert init: --days and --not-after "
         "both say when it ends; give one of them; see meshnode cert init --help"),
        ("init --not-before 2027-01-01T00:00:00Z --not-after 2027-01-01T00:00:00Z", "cert init: "
         "--not-after is not after --not-before: it would never hold; see meshnode cert init "
         "--help"),
        ("init --bits 1024", "cert init: Invalid value for '--bits': 1024 is out of range; "
         "expected: whole number from 2048 to 8192; see meshnode cert init --help"),
        ("init --days 0", "cert init: Invalid value for '--days': 0 is out of range; expected: "
         "whole number from 1 to 36500; see meshnode cert init --help"),
        ("mesh --node ca --out x", 'cert mesh: --node: "ca" would have the files of the CA; give '
         "the node another ID; see meshnode cert mesh --help"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_a_line(
    line: str, text: str, capsys: Capture, files: Files
) -> None:
    assert run(line) == ExitCode.CONFIGURATION
    assert capsys.readouterr() == ("", f"command line: {text}\n")
    assert files() == {}


def test_a_whole_mesh_is_made_by_one_command(capsys: Capture, files: Files) -> None:
    assert run("mesh --node foo --node bar=10.0.0.7 --out new/mesh --signing --bits 2048") == 0
    names = [Path(name).name for name in files()]
    assert sorted(names) == [
        *("bar.crt", "bar.key", "ca.crt", "ca.key", "foo.crt", "foo.key"),
        *("signworkprivate.pem", "signworkpublic.pem"),
    ]
    assert "\n# foo.yml\n- node:\n    id: foo\n" in capsys.readouterr().out


def test_several_files_are_shown_one_after_another(capsys: Capture) -> None:
    run("init")
    capsys.readouterr()
    assert run("show ca.crt ca.key") == ExitCode.OK
    text = capsys.readouterr().out
    assert text.startswith("ca.crt: certificate\n")
    assert "\n\nca.key: private key\n" in text
    assert run("show ca.crt nothing") == ExitCode.FAILED


def test_what_comes_through_a_pipe_is_shown() -> None:
    run("init")
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m meshnode cert show <(cat ca.crt)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "  Subject:     CN=meshnode CA\n" in done.stdout


@pytest.mark.parametrize("words", [["cert", "--help"], ["help", "cert"], ["cert", "-h"]])
def test_help_teaches_the_way_from_nothing_to_a_mesh(words: list[str], capsys: Capture) -> None:
    assert main(words) == ExitCode.OK
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name in cert.commands:
        assert f"\n  {name} " in text
    assert "meshnode cert mesh --node foo --node bar --out mesh" in text


@pytest.mark.parametrize("name", list(cert.commands))
def test_help_of_each_command_names_every_option_and_fits_the_terminal(
    name: str, capsys: Capture
) -> None:
    assert main(["help", "cert", name]) == ExitCode.OK
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for parameter in cert.commands[name].params:
        assert not isinstance(parameter, click.Option) or parameter.help
        assert (parameter.opts[0] if isinstance(parameter, click.Option) else "") in text


def test_without_a_command_help_is_shown_and_the_exit_code_is_2(capsys: Capture) -> None:
    assert main(["cert"]) == ExitCode.CONFIGURATION
    assert "Commands:\n" in capsys.readouterr().out


def test_receptors_options_make_files_and_start_no_node(capsys: Capture, files: Files) -> None:
    line = "--cert-init commonname=x bits=2048 outcert=ca.crt outkey=ca.key"
    assert main(line.split()) == ExitCode.OK
    assert {mode for mode, _ in files().values()} == {0o600}
    capsys.readouterr()
    assert main(line.split()) == ExitCode.FAILED
    assert capsys.readouterr().err == (
        'command line: cert-init: "ca.crt" is there already; name another file, '
        "or replace it by force=true\n"
    )


def test_an_interrupt_at_the_question_leaves_no_traceback(tmp_path: Path) -> None:
    run("init")
    run("request --node foo")
    program = (
        "import sys; from meshnode.cli import main\n"
        "class Stdin:\n"
        "    def readline(self): raise KeyboardInterrupt\n"
        "sys.stdin = Stdin(); sys.exit(main(['cert', 'sign', 'foo.csr']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "meshnode: not signed: you declined\n")


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (b"\xff\n", "not signed: you declined"),
        (None, "not signed: nobody has answered; to sign unasked: --yes, or verify: true"),
    ],
    ids=["no text", "closed"],
)
def test_whatever_stdin_is_nothing_is_signed_without_a_yes(
    stdin: bytes | None, text: str, tmp_path: Path
) -> None:
    run("init")
    run("request --node foo")
    command = f"{sys.executable} -m meshnode cert sign foo.csr"
    done = subprocess.run(
        ["bash", "-c", command if stdin else f"{command} <&-"],
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (1, f"meshnode: {text}\n")
    assert not Path("foo.crt").exists()


@pytest.mark.parametrize(
    ("request_file", "made"),
    [
        ("foo.csr", "foo.crt"),
        ("foo.REQ", "foo.crt"),
        ("foo.example.org", "foo.example.org.crt"),
        ("foo.example.org.csr", "foo.example.org.crt"),
        ("sub/foo", "sub/foo.crt"),
    ],
)
def test_a_certificate_is_named_after_its_request(request_file: str, made: str) -> None:
    Path("sub").mkdir()
    run("init")
    run(f"request --node foo --out-req {request_file}")
    assert run(f"sign {request_file} --yes") == ExitCode.OK
    assert Path(made).exists()


@pytest.mark.parametrize("request_file", [".", "..", "/", "sub", "nothing"])
def test_what_is_no_file_is_told_in_a_line(request_file: str, capsys: Capture) -> None:
    Path("sub").mkdir()
    run("init")
    assert run(f"sign {request_file} --yes --out-cert x") == ExitCode.FAILED
    assert run(f"sign {request_file} --yes") == ExitCode.FAILED
    assert run(f"show {request_file}") == ExitCode.FAILED
    assert run(f"verify {request_file}") == ExitCode.FAILED
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("meshnode: ") for line in lines)


def test_names_of_files_that_are_no_text_are_told_all_the_same(tmp_path: Path) -> None:
    names = [b"\xff\x1b[2J.crt", b"\xff\x1b[2J.key"]
    command = [sys.executable.encode(), b"-m", b"meshnode", b"cert"]
    made = [*command, b"init", b"--out-cert", names[0], b"--out-key", names[1]]
    for words in (made, [*command, b"show", *names], made):
        done = subprocess.run(words, capture_output=True, check=False)
        assert done.returncode == (1 if words is made and done.stderr else 0)
        text = (done.stdout + done.stderr).decode()
        assert all(line.isprintable() for line in text.splitlines())
        assert "Traceback" not in text
    assert done.returncode == 1


def test_a_node_that_starts_loads_nothing_of_this(tmp_path: Path) -> None:
    (tmp_path / "foo.yml").write_text("- node: foo\n- local-only\n")
    program = (
        "import sys, meshnode.node, meshnode.config as config\n"
        "config.load_task(['-c', 'foo.yml'])\n"
        "loaded = [m for m in sys.modules if m.startswith(('meshnode.certs', 'click'))\n"
        "          or m == 'meshnode.config.cert_directives']\n"
        "sys.exit(' '.join(loaded) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
