import pytest
from signing_keys import private_pem, public_pem, write_key

from meshnode.config import load_file
from meshnode.errors import ConfigError, SignatureRefused
from meshnode.security.tokens import make_signer, make_verifier


def load(tmp_path, text: str):
    file = tmp_path / "bar.yml"
    file.write_text("- node: bar\n- local-only\n" + text)
    return load_file(str(file))


def test_a_node_without_the_directives_neither_signs_nor_checks(tmp_path):
    config = load(tmp_path, "")
    assert make_signer(config) is None
    assert make_verifier(config) is None


def test_the_keys_of_the_directives_belong_together(tmp_path, key):
    private = write_key(tmp_path / "private.pem", private_pem(key))
    public = write_key(tmp_path / "public.pem", public_pem(key))
    config = load(
        tmp_path,
        f"- work-signing:\n    privatekey: {private}\n    tokenexpiration: 1h30m\n"
        f"- work-verification:\n    publickey: {public}\n",
    )
    signer, verifier = make_signer(config), make_verifier(config)
    assert signer is not None
    assert verifier is not None
    verifier.verify(signer.sign("bar"))
    with pytest.raises(SignatureRefused):
        verifier.verify(signer.sign("foo"))


def test_a_key_that_cannot_be_used_is_told_with_its_line(tmp_path, key):
    public = write_key(tmp_path / "public.pem", public_pem(key))
    config = load(
        tmp_path,
        f"- work-signing:\n    tokenexpiration: 1h\n    privatekey: {public}\n"
        "- work-verification:\n    publickey: /nowhere/public.pem\n",
    )
    with pytest.raises(ConfigError) as refused:
        make_signer(config)
    assert str(refused.value) == (
        f'{tmp_path}/bar.yml:5: work-signing: privatekey: "{public}" holds a public key; '
        "the private one is needed here, since it signs"
    )
    with pytest.raises(ConfigError) as refused:
        make_verifier(config)
    assert str(refused.value) == (
        f"{tmp_path}/bar.yml:7: work-verification: publickey: "
        '"/nowhere/public.pem" does not exist; '
        "make it with: openssl rsa -in PRIVATE.pem -pubout -out /nowhere/public.pem"
    )
