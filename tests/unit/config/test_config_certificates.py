"""The directives of certificates: what they take, and beside what they stand."""

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.cli import ExitCode, main
from meshnode.config import ConfigFaults, NodeConfig, load_arguments, load_file, load_task
from meshnode.config.cert_directives import (
    CertDirective,
    CertInit,
    CertMakereq,
    CertSignreq,
    check_address,
    check_dns_name,
    read_moment,
)
from meshnode.config.names import Wrong

INIT = "--cert-init commonname=ca outcert=ca.crt outkey=ca.key"
REQUEST = "--cert-makereq commonname=foo outreq=foo.csr"
SIGN = "--cert-signreq req=foo.csr cacert=ca.crt cakey=ca.key outcert=foo.crt"


def errands(text: str) -> tuple[CertDirective, ...]:
    task = load_task(text.split())
    assert not isinstance(task, NodeConfig)
    return task


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigFaults) as caught:
        load_task(text.split())
    return str(caught.value).splitlines()


def test_receptors_script_means_what_it_means_there() -> None:
    assert errands("--cert-init commonname=x bits=2048 outcert=c/ca.crt outkey=c/ca.key") == (
        CertInit(commonname="x", bits=2048, outcert=Path("c/ca.crt"), outkey=Path("c/ca.key")),
    )
    text = "--cert-makereq bits=4096 commonname=x dnsname=localhost nodeid=foo outreq=r outkey=k"
    assert errands(text) == (
        CertMakereq(
            commonname="x",
            bits=4096,
            dnsname=("localhost",),
            nodeid=("foo",),
            outreq=Path("r"),
            outkey=Path("k"),
        ),
    )
    assert errands("--cert-signreq req=r cacert=c cakey=k outcert=o verify=yes") == (
        CertSignreq(
            req=Path("r"), cacert=Path("c"), cakey=Path("k"), outcert=Path("o"), verify=True
        ),
    )


def test_names_may_be_lists_in_both_forms(tmp_path: Path) -> None:
    file = tmp_path / "certs.yml"
    file.write_text(
        "version: 2\n"
        "cert-signreqs:\n"
        "  - {req: foo.csr, cacert: ca.crt, cakey: ca.key, outcert: foo.crt}\n"
        "cert-makereqs:\n"
        "  - {commonname: foo, outreq: foo.csr, outkey: foo.key, nodeid: [foo, bar],\n"
        "     ipaddress: [10.0.0.7, '2001:DB8::7']}\n"
        "cert-init: {commonname: ca, outcert: ca.crt, outkey: ca.key}\n"
    )
    words = f"{SIGN} {REQUEST} outkey=foo.key nodeid=foo nodeid=bar ipaddress=10.0.0.7"
    read = errands(f"{words} ipaddress=2001:db8::7 {INIT}")
    assert read == load_task(["--config", str(file)])
    assert [type(errand) for errand in read] == [CertInit, CertMakereq, CertSignreq]


@pytest.mark.parametrize("errand", [INIT, REQUEST + " inkey=k", SIGN])
def test_a_node_is_not_started_beside_what_makes_certificates(errand: str) -> None:
    assert faults(f"{errand} --node foo --local-only") == [
        f"command line: {name}: cannot stand beside directives that make certificates: "
        "they start no node"
        for name in ("node", "local-only")
    ]


def test_a_reload_finds_that_certificates_do_not_belong_to_a_node(tmp_path: Path) -> None:
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node: foo\n- local-only\n- cert-init: {commonname: a, outcert: b, outkey: c}\n"
    )
    for load in (
        lambda: load_file(str(file)),
        lambda: load_arguments(["-c", str(file)], for_reload=True),
    ):
        with pytest.raises(ConfigFaults) as caught:
            load()
        assert str(caught.value) == (
            f"{file}:3: cert-init: makes certificates once and by itself; "
            "it cannot stand beside a node's directives"
        )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (REQUEST, "needs outkey, the file for a new key, or inkey, the file of one that there is"),
        (
            f"{REQUEST} inkey=a outkey=b",
            "inkey: cannot stand beside outkey: the key is read, or a new one is made",
        ),
        (
            f"{REQUEST} inkey=a bits=2048",
            "bits: is the length of a new key; the one in inkey has its length",
        ),
        (f"{REQUEST} outkey=a bits=1024", "bits: 1024 is out of range; expected: whole number "
         "from 2048 to 8192"),
        (
            f"{INIT} notbefore=2027-01-02T00:00:00Z notafter=2027-01-02T01:00:00+01:00",
            "notafter: is not after notbefore: the certificate would never hold",
        ),
        (f"{INIT} notafter=tomorrow", 'notafter: "tomorrow" is not a time such as '
         "2027-01-31T00:00:00Z (RFC 3339)"),
        (f"{REQUEST} outkey=a ipaddress=foo", 'ipaddress: "foo" is not an IP address such as '
         "10.0.0.7 or 2001:db8::7"),
        (f"{REQUEST} outkey=a dnsname=::1", 'dnsname: "::1" is an IP address; it is no DNS name '
         "but an address of its own"),
        (f"{REQUEST} outkey=a dnsname=fäx", 'dnsname: "fäx" is not ASCII; write it as DNS has '
         "it: xn--…"),
        (f"{REQUEST} outkey=a nodeid=a/b", 'nodeid: "a/b" cannot be a node ID: it must be usable '
         "as a directory name"),
        (f"{INIT} commonnam=x", 'commonnam: unknown parameter; did you mean "commonname"?'),
        ("--cert-int commonname=x", 'did you mean "cert-init"?'),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(text: str, fault: str) -> None:
    (line,) = faults(text)
    assert line.startswith("command line: cert-")
    assert line.endswith(fault)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31T12:30:00Z", "2027-01-31T12:30:00+00:00"),
        ("2027-01-31T12:30:00.999+02:00", "2027-01-31T10:30:00+00:00"),
        ("2027-01-31t12:30:00-00:30", "2027-01-31T13:00:00+00:00"),
    ],
)
def test_times_are_those_of_rfc_3339(text: str, moment: str) -> None:
    assert read_moment(text, "time").isoformat() == moment


@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+\d\d:\d\d)"))
def test_any_text_is_a_time_that_a_certificate_can_name_or_is_refused(text: str) -> None:
    try:
        moment = read_moment(text, "time")
    except Wrong:
        return
    assert 1950 <= moment.year <= 9999
    assert (moment.tzinfo, moment.microsecond) == (datetime.UTC, 0)


@given(st.text(max_size=300))
def test_any_text_is_a_name_that_a_certificate_can_have_or_is_refused(text: str) -> None:
    for check in (check_dns_name, check_address):
        try:
            assert check(text).isascii()
        except Wrong:
            continue


def test_check_knows_files_of_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "certs.yml"
    file.write_text("cert-init: {commonname: ca, outcert: ca.crt, outkey: ca.key}\n")
    assert main(["check", str(file)]) == ExitCode.OK
    assert capsys.readouterr() == (f"{file}: ok (no node: makes certificates)\n", "")
    assert main(["check", "--convert", str(file)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("---\n- cert-init:")
