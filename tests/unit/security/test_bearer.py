"""Bearer tokens: files of them, and what becomes of one that is taken away."""

import hashlib
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import HttpService
from meshnode.config.faults import ConfigFaults
from meshnode.permissions import Verb, Way
from meshnode.security.access import AccessRules, Asker, Target
from meshnode.security.bearer import TokenStore, read_tokens
from meshnode.security.identity import TokenClient, UnixClient, identity_from_json

TOKEN = "0123456789abcdef0123"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
CI = Asker(TokenClient("ci", "10.0.0.7:1"), Way.TCP)


def write(directory: Path, text: str, mode: int = 0o600) -> HttpService:
    file = directory / "tokens"
    file.write_text(text)
    file.chmod(mode)
    return HttpService(port=1, tokens=file)


@pytest.mark.parametrize("shown", [f"token: '{TOKEN}'", f"sha256: '{DIGEST}'"])
def test_a_token_is_known_by_itself_and_by_its_digest(tmp_path: Path, shown: str) -> None:
    directive = write(tmp_path, f"- {{name: ci, {shown}, verbs: [ping]}}\n")
    store = TokenStore(AccessRules())
    assert directive.tokens is not None
    store.apply({directive.tokens: read_tokens(directive)})
    token = store.find(directive.tokens, TOKEN)
    assert token is not None
    assert (token.name, token.verbs) == ("ci", {Verb.PING})
    assert store.find(directive.tokens, DIGEST) is None
    assert store.find(tmp_path / "others", TOKEN) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "is not a list"),
        ("- {", "cannot be read as YAML"),
        ("- ci", "entry 1: is not a map"),
        (f"- {{token: '{TOKEN}'}}", "entry 1: has no name"),
        (f"- {{name: \"a\\nb\", token: '{TOKEN}'}}", "entry 1: has no name"),
        ("- {name: ci}", "entry 1: has either a token or its sha256"),
        (f"- {{name: ci, token: '{TOKEN}', sha256: '{DIGEST}'}}", "either a token"),
        ("- {name: ci, token: short}", "openssl rand -hex 32"),
        ("- {name: ci, token: 12345678901234567890}", "in quotes"),
        ("- {name: ci, sha256: abc}", "64 hexadecimal digits"),
        (f"- {{name: ci, token: '{TOKEN}', verbs: []}}", "leave them out"),
        (f"- {{name: ci, token: '{TOKEN}', verbs: [fly]}}", '"fly" is no verb'),
        (f"- {{name: ci, token: '{TOKEN}', verb: ping}}", '"verb" is unknown'),
        (f"- {{name: ci, token: '{TOKEN}'}}\n- {{name: ci, token: '{TOKEN}0'}}", "there already"),
        (f"- {{name: a, token: '{TOKEN}'}}\n- {{name: b, sha256: '{DIGEST}'}}", "the same token"),
    ],
)
def test_a_file_that_is_no_list_of_tokens_is_refused_in_one_line(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ConfigFaults) as caught:
        read_tokens(write(tmp_path, text))
    line = str(caught.value)
    assert told in line
    assert "\n" not in line
    assert TOKEN not in line


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o620])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    directive = write(tmp_path, f"- {{name: ci, token: '{TOKEN}'}}", mode)
    with pytest.raises(ConfigFaults, match="chmod 600"):
        read_tokens(directive)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="No such file"):
        read_tokens(HttpService(port=1, tokens=tmp_path / "none"))


@given(st.sets(st.sampled_from(list(Verb)), min_size=1))
def test_a_token_lets_its_client_do_what_its_verbs_say_and_takes_nothing_from_others(
    tmp_path_factory: pytest.TempPathFactory, verbs: set[Verb]
) -> None:
    directive = write(
        tmp_path_factory.mktemp("tokens"),
        f"- {{name: ci, token: '{TOKEN}', verbs: [{', '.join(verbs)}]}}\n",
    )
    rules = AccessRules()
    assert directive.tokens is not None
    TokenStore(rules).apply({directive.tokens: read_tokens(directive)})
    others = (
        Asker(UnixClient(1, 1, 1), Way.SOCKET),
        Asker(TokenClient("cd", "10.0.0.7:1"), Way.TCP),
    )
    for verb in Verb:
        assert rules.may(CI, verb, Target()) == (verb in verbs)
        assert all(rules.may(other, verb, Target()) for other in others)


async def test_what_a_client_does_ends_when_its_token_is_taken_away(tmp_path: Path) -> None:
    directive = write(
        tmp_path, f"- {{name: ci, token: '{TOKEN}'}}\n- {{name: b, token: '{DIGEST}'}}"
    )
    file = directive.tokens
    assert file is not None
    store = TokenStore(AccessRules())
    store.apply({file: read_tokens(directive)})
    ci, other = store.find(file, TOKEN), store.find(file, DIGEST)
    assert ci is not None
    assert other is not None
    with store.using(other) as kept, store.using(ci) as lost:
        write(tmp_path, f"- {{name: b, token: '{DIGEST}'}}")
        [line] = store.apply({file: read_tokens(directive)})
        await trio.sleep_forever()
    assert lost.cancelled_caught
    assert not kept.cancel_called
    assert line.endswith("1; changed or gone: 1")
    assert store.find(file, TOKEN) is None


def test_a_client_with_a_token_is_on_record_as_it_is() -> None:
    assert identity_from_json(CI.identity.to_json()) == CI.identity


@given(st.dictionaries(st.sampled_from(["Kind", "Name", "Address"]), st.just("token") | st.text()))
def test_any_record_of_a_token_is_a_bounded_client_or_none(data: dict[str, str]) -> None:
    found = identity_from_json({"Kind": "token", **data})
    if isinstance(found, TokenClient):
        assert found.name.isprintable()
        assert len(found.name) <= 64
