from pathlib import Path

import pytest

from meshnode.config import load_arguments, load_file
from meshnode.errors import ConfigError

VERIFYING = "- work-command:\n    worktype: x\n    command: y\n    verifysignature: true\n"


def load(tmp_path: Path, text: str):
    file = tmp_path / "foo.yml"
    file.write_text("- node: foo\n- local-only\n" + text, encoding="utf-8")
    return load_file(str(file))


def test_the_guides_directives_are_read(tmp_path: Path):
    config = load(
        tmp_path,
        "- work-signing:\n    privateKey: /full/path/signworkprivate.pem\n"
        "    tokenExpiration: 1h30m\n"
        "- work-verification:\n    publickey: /full/path/signworkpublic.pem\n" + VERIFYING,
    )
    assert config.work_signing is not None
    assert config.work_signing.privatekey == Path("/full/path/signworkprivate.pem")
    assert config.work_signing.tokenexpiration == 5400.0
    (key,) = config.work_verifications
    assert key.publickey == Path("/full/path/signworkpublic.pem")
    assert key.label == "signworkpublic"


def test_a_signature_holds_five_minutes_unless_said_otherwise():
    config = load_arguments(["--node", "foo", "--local-only", "--work-signing", "privatekey=k"])
    assert config.work_signing is not None
    assert config.work_signing.tokenexpiration == 300.0
    assert config.work_verifications == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            VERIFYING,
            "{f}:6: work-command: verifysignature: needs a work-verification directive with the "
            "public key of those who sign",
        ),
        (
            "- work-signing:\n    tokenexpiration: 1h\n",
            "{f}:3: work-signing: privatekey: is missing: "
            "file of the RSA private key, as PEM (file)",
        ),
        (
            "- work-signing:\n    privatekey: k\n    tokenexpiration: 90\n",
            '{f}:5: work-signing: tokenexpiration: "90" has no unit; '
            "expected: duration such as 30s or 1h30m, at least 1s",
        ),
        (
            "- work-verification:\n    privatekey: k\n",
            "{f}:4: work-verification: privatekey: unknown parameter; "
            "work-verification takes publickey, name",
        ),
        (
            "- work-verification:\n    publickey: a/k.pem\n- work-verification: b/k.pub\n",
            '{f}:5: work-verification: name: "k" is also the name of the key on line 3; '
            "give each its own name",
        ),
        (
            "- work-verification: a/k.pem\n- work-verification:\n    publickey: j\n    name: k\n",
            '{f}:6: work-verification: name: "k" is also the name of the key on line 3; '
            "give each its own name",
        ),
        (
            '- work-verification:\n    publickey: j\n    name: " k"\n',
            '{f}:5: work-verification: name: " k" is no name for a key: '
            "at most 100 printable characters",
        ),
        (
            "".join(f"- work-verification: key{number}.pem\n" for number in range(33)),
            "{f}:35: work-verification: is one too many: a node checks signatures with at most 32",
        ),
    ],
)
def test_a_mistake_in_signing_is_told_in_one_line(tmp_path: Path, text: str, expected: str):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value) == expected.replace("{f}", str(tmp_path / "foo.yml"))


def test_a_key_may_be_a_bare_value(tmp_path: Path):
    config = load(tmp_path, "- work-verification: /p.pem\n- work-signing: /s.pem\n" + VERIFYING)
    assert config == load(
        tmp_path,
        "- work-verification: {publickey: /p.pem}\n- work-signing: {privatekey: /s.pem}\n"
        + VERIFYING,
    )


def test_several_keys_may_check_signatures_in_lists_and_maps(tmp_path: Path):
    items = "- publickey: /k/old.pem\n- {publickey: /k/new.pem, name: release}\n"
    listed = load(
        tmp_path,
        "- work-verification: /k/old.pem\n"
        "- work-verification: {publickey: /k/new.pem, name: release}\n",
    )
    file = tmp_path / "map.yml"
    for name in ("work-verification", "work-verifications"):
        indented = "".join(f"  {line}\n" for line in items.splitlines())
        file.write_text(f"version: 2\nnode: {{id: foo}}\nlocal-only: {{}}\n{name}:\n{indented}")
        assert load_file(str(file)).work_verifications == listed.work_verifications
    assert [one.label for one in listed.work_verifications] == ["old", "release"]
