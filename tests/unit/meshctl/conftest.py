import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scripted_node import ScriptedNode, unix_listener

from meshctl.cli import cli
from meshctl.commands import following


@pytest.fixture
def node(tmp_path):
    path = tmp_path / "foo.sock"
    scripted = ScriptedNode(unix_listener(path), str(path))
    yield scripted
    scripted.close()


@pytest.fixture
def tcp_node():
    listener = socket.create_server(("127.0.0.1", 0))
    scripted = ScriptedNode(listener, f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    yield scripted
    scripted.close()


@pytest.fixture
def certificate(tmp_path):
    """Files of a self-signed certificate for 127.0.0.1 and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scripted node")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture
def server_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def tls_node(server_context):
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"tls://127.0.0.1:{listener.getsockname()[1]}"
    scripted = ScriptedNode(listener, address, server_context)
    yield scripted
    scripted.close()


@pytest.fixture(params=["unix", "tcp", "tls"])
def any_node(request):
    """The scripted node over each kind of connection in turn."""
    return request.getfixturevalue({"unix": "node"}.get(request.param, f"{request.param}_node"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MESHCTL_", "RECEPTORCTL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def impatient(monkeypatch):
    """A meshctl that waits for no node to come back."""
    monkeypatch.setattr(following, "NODE_RETURNS", 0.0)


@pytest.fixture
def meshctl(node):
    """Runs meshctl in this process, on the scripted node, its stdout no terminal."""

    def run(*args, input=None, socket=node.address):
        options = ["--socket", socket] if socket else []
        result = CliRunner().invoke(cli, [*options, *map(str, args)], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def start_process():
    """Starts meshctl as a process of its own; what is left of it at the end is killed."""
    started = []

    def start(*args, module="meshctl", prefix=(), **popen_options):
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *map(str, args)], **(options | popen_options)
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
