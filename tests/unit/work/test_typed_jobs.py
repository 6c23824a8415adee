"""Arguments, variables and directories of clients are checked where the work runs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_work_under_rules import rules

from meshnode.arguments import Argument, ArgumentType
from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import ARGUMENTS_KEY, CLAIM_KEY, CWD_KEY, ENV_KEY, TAKEN_KEYS
from meshnode.protocol.lifecycle import UnitState
from meshnode.surroundings import AllowedDirectories, AllowedNames
from meshnode.templates import Template
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.intake import Input
from meshnode.work.units.jobsettings import JobSettings
from meshnode.work.units.keys import work_digest
from meshnode.work.units.remoteextra import is_secret
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusreply import status_reply

ARGUMENTS = (
    Argument("position", ArgumentType.INT, required=True, least=1, most=1000),
    Argument("secret_key"),
)
FIB = CommandType(
    "fib",
    template=Template.parse(["{position}", "--key={secret_key}"], ARGUMENTS),
    env={"A": "operator's", "C": "operator's"},
    clean_env=True,
    allowed_env=AllowedNames.parse(["A", "B", "secret_*"]),
    allowed_cwd=AllowedDirectories(("/srv",)),
    cwd="/operators",
)
USAGE = "usage: meshctl work submit fib --arg position=INT [--arg secret_key=TEXT]"

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SETTINGS = st.builds(
    JobSettings,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    TEXTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def job(cwd: str = "", env: dict[str, str] | None = None, **arguments: str) -> dict[str, str]:
    return JobSettings(arguments, env or {}, cwd).fields()


@pytest.fixture
def foo(foo):
    foo.work_types = {**foo.work_types, "fib": FIB}
    return foo


@pytest.fixture
def bar(bar):
    bar.work_types = {**bar.work_types, "fib": FIB}
    return bar


@pytest.fixture
def requests(foo, monkeypatch):
    """What the launcher of foo is asked for."""
    found = []
    start = foo.launcher.start_now

    def start_now(request):
        found.append(request)
        return start(request)

    monkeypatch.setattr(foo.launcher, "start_now", start_now)
    return found


async def refusal(node, to: str = "foo", worktype: str = "fib", **fields: str) -> str:
    request = {"command": "work", "subcommand": "submit", "node": to, "worktype": worktype}
    lines = await node.talk(request | fields, b"")
    assert lines[-1].startswith("ERROR: "), lines
    return lines[-1].removeprefix("ERROR: ")


async def status(node, unit_id: str) -> dict[str, object]:
    return json.loads((await node.talk(f"work status {unit_id}"))[-1])


# --- Here ----------------------------------------------------------------------------------------


async def test_arguments_are_words_variables_are_the_environment_and_the_directory_is_the_clients(
    foo, requests, autojump_clock
):
    async with foo.running():
        given = job("/srv/x", {"A": "1", "B": "two words"}, position="3")
        unit_id = await foo.submit("foo", "fib", **given)
        (request,) = requests
        assert request.argv == ("fib", "3")
        assert request.cwd == "/srv/x"
        found = {name: request.env[name] for name in "ABC"}
        assert found == {"A": "1", "B": "two words", "C": "operator's"}
        shown = await status(foo, unit_id)
        assert shown["SubmittedParams"] == "position=3 env.A=1 env.B=two words cwd=/srv/x"
        assert shown["ExtraData"]["Params"] == "3"


async def test_without_them_a_type_is_what_its_operator_has_written(foo, requests, autojump_clock):
    async with foo.running():
        await foo.submit("foo", "fib", **job(position="3"))
        assert (requests[0].cwd, requests[0].env["A"]) == ("/operators", "operator's")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, f"work type fib: argument position is missing; {USAGE}"),
        (
            job(position="x"),
            'work type fib: argument position: "x" is not a whole number of at most 18 digits; '
            + USAGE,
        ),
        (
            job(positon="3"),
            f'work type fib: there is no argument "positon"; did you mean position?; {USAGE}',
        ),
        (
            job(env={"PATH": "x"}, position="3"),
            'work type fib: variable "PATH" is not allowed; the type takes A, B, secret_*',
        ),
        (
            job("/etc", position="3"),
            'work type fib: working directory "/etc" is not in /srv',
        ),
        ({ARGUMENTS_KEY: "{"}, "field jobarguments must be an object of strings in JSON"),
        ({ENV_KEY: "[]"}, "field jobenv must be an object of strings in JSON"),
        ({ARGUMENTS_KEY: '{"a": 1}'}, "field jobarguments must be an object of strings in JSON"),
        (
            job(env={"A": "x" * 131072}, position="3"),
            "an argument of 131074 bytes is longer than the system passes on (131071); send it as "
            "the payload",
        ),
    ],
)
async def test_what_is_wrong_is_an_error_with_the_usage_and_nothing_is_made(
    foo, fields, text, autojump_clock
):
    async with foo.running():
        assert await refusal(foo, **fields) == text
        assert foo.left() == []


async def test_a_type_without_arguments_takes_none(foo, autojump_clock):
    async with foo.running():
        told = await refusal(foo, worktype="cat", **job(a="1"))
        assert told == (
            'work type cat: there is no argument "a": the type takes none; usage: meshctl work '
            "submit cat"
        )
        assert await refusal(foo, worktype="cat", **job(env={"A": "1"})) == (
            "work type cat: the type takes no environment variables"
        )
        assert await refusal(foo, worktype="cat", **job("/srv")) == (
            "work type cat: the type takes no working directory"
        )


async def test_a_unit_that_waits_has_them_after_a_restart_and_drops_them_with_its_end(
    foo, requests, autojump_clock
):
    given = job("/srv", {"B": "2"}, position="3")
    async with foo.running():
        unit_id = await foo.submit("foo", "fib", **given)
        on_disk = json.loads((foo.store.directory(unit_id) / "status").read_text())
        assert on_disk["Job"] == {
            "Arguments": {"position": "3"},
            "Env": {"B": "2"},
            "Cwd": "/srv",
        }
        foo.launcher.supervisors[unit_id].finish()
        final = await foo.wait_final(unit_id)
        assert (final.params, bool(final.job)) == ((), False)
    assert "Job" not in json.loads((foo.store.directory(unit_id) / "status").read_text())


async def test_secrets_are_shown_nowhere(foo, autojump_clock, caplog):
    caplog.set_level("DEBUG")
    given = job(env={"secret_B": "S3CRET"}, position="3", secret_key="S3CRET")
    async with foo.running():
        unit_id = await foo.submit("foo", "fib", **given)
        assert foo.launcher.started == [("fib", "3", "--key=S3CRET")]
        shown = await status(foo, unit_id)
        assert shown["SubmittedParams"] == "position=3"
        assert shown["ExtraData"]["Params"] == "position=3"
        assert "S3CRET" not in json.dumps(shown) + json.dumps(await foo.talk("work list"))
        foo.launcher.supervisors[unit_id].finish()
        await foo.wait_final(unit_id)
    assert "S3CRET" not in (foo.store.directory(unit_id) / "status").read_text()
    assert "S3CRET" not in caplog.text


# --- On another node -----------------------------------------------------------------------------


async def test_they_reach_the_node_that_runs_the_work_and_are_dropped_here_once_it_does(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        given = job("/srv/x", {"B": "2"}, position="3")
        unit_id = await foo.submit("bar", "fib", **given)
        assert bar.launcher.started == [("fib", "3")]
        (there,) = bar.units.all()
        assert there.status.job == foo.status(unit_id).job == JobSettings.parse(given)
        assert (await status(foo, unit_id))["SubmittedParams"] == there.status.submitted_params
        assert foo.status(unit_id).remote.params == {}


async def test_they_wait_for_a_node_that_is_away_also_through_a_restart(foo, bar, autojump_clock):
    given = job("/srv/x", {"B": "2"}, position="3")
    async with foo.running():
        unit_id = await foo.submit("bar", "fib", **given)
        assert foo.status(unit_id).state is UnitState.PENDING
    async with foo.running(), bar.running():
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        assert bar.launcher.started == [("fib", "3")]


async def test_what_the_other_node_refuses_is_told_with_its_usage(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        told = await refusal(foo, "bar", **job(position="0"))
        assert told.startswith("node bar refused: work type fib: argument position: 0 is less than")
        assert told.endswith(USAGE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (job(position="3"), "arguments"),
        (job(env={"A": "1"}), "environment variables"),
        (job("/srv", {"A": "1"}), "environment variables and no working directory"),
    ],
)
@pytest.mark.parametrize("kind", ["receptor", "older"])
async def test_a_node_that_knows_nothing_of_them_is_not_sent_the_work(
    foo, bar, fields, words, kind, autojump_clock
):
    bar.is_receptor = kind == "receptor"
    foo.mesh.taken_keys = frozenset({CLAIM_KEY})
    async with foo.running(), bar.running():
        told = await refusal(foo, "bar", worktype="cat", **fields)
        assert told == (
            f"node bar is of a version that takes no {words} from clients: it is receptor's, or an "
            "older meshnode"
        )
        assert bar.units.all() == ()
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED


async def test_a_unit_waits_until_the_other_node_has_said_what_it_takes(
    foo, bar, autojump_clock, monkeypatch
):
    from work_fakes import FakeDialer

    find = FakeDialer.find_service
    monkeypatch.setattr(FakeDialer, "find_service", lambda *_: None)
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "fib", **job(position="3"))
        assert foo.status(unit_id).state is UnitState.PENDING
        assert "it has not said yet what it takes" in json.dumps(await status(foo, unit_id))
        monkeypatch.setattr(FakeDialer, "find_service", find)
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        assert bar.launcher.started == [("fib", "3")]


@pytest.mark.parametrize("given", [job(secret_key="x", position="3"), job(env={"SECRET_B": "x"})])
async def test_secrets_go_to_no_node_without_tls(foo, bar, given, autojump_clock):
    async with foo.running(), bar.running():
        told = await refusal(foo, "bar", **given)
        assert told == "cannot send secrets over a non-TLS connection"


async def test_a_key_is_that_of_one_piece_of_work_with_all_that_its_client_gives(
    foo, autojump_clock
):
    async with foo.running():
        given = job("/srv", {"B": "2"}, position="3")
        first = await foo.submit("foo", "fib", submissionkey="k", **given)
        same = await refusal(foo, **given, submissionkey="k")
        assert same == f"already submitted as unit {first}"
        for other in (
            job("/srv", {"B": "2"}, position="4"),
            job("/srv", {"B": "1"}, position="3"),
            job("/srv/a", {"B": "2"}, position="3"),
            job(position="3"),
        ):
            told = await refusal(foo, **other, submissionkey="k")
            assert told == "field submissionkey is that of other work"


@given(SETTINGS, SETTINGS)
def test_two_digests_are_equal_if_all_is_the_same(one, two):
    first, second = (work_digest("t", {}, Input(), job.fields()) for job in (one, two))
    assert (first == second) == (one == two)
    assert one or first == work_digest("t", {}, Input())


# --- What is sent, kept and ruled over -----------------------------------------------------------


@given(SETTINGS)
def test_what_is_sent_and_what_is_kept_is_what_was_given(settings):
    assert JobSettings.parse(settings.fields()) == settings
    kept = json.loads(json.dumps(settings.to_disk(secrets=True)))
    assert JobSettings.from_disk(kept) == settings
    open_ones = JobSettings.from_disk(settings.to_disk(secrets=False))
    assert not any(map(is_secret, [*open_ones.arguments, *open_ones.env]))


@given(
    st.dictionaries(
        st.sampled_from([ARGUMENTS_KEY, ENV_KEY, CWD_KEY]), TEXTS | JSON.map(json.dumps)
    )
)
def test_any_texts_are_settings_or_one_line_why_not(data):
    told = ""
    try:
        settings = JobSettings.parse(data)
    except CommandError as error:
        told = str(error)
    else:
        json.dumps(settings.as_params(), ensure_ascii=False).encode()
    assert "\n" not in told


@given(JSON)
def test_whatever_stands_in_a_record_it_is_read_whole_or_refused(data):
    record = {"State": 0, "WorkType": "cat", "Job": data}
    try:
        status = UnitStatus.from_json(record)
    except WorkError:
        return
    json.dumps(status_reply(status, 0)).encode()
    assert UnitStatus.from_json(json.loads(json.dumps(status.to_disk()))) == status


async def test_access_rules_see_arguments_variables_and_the_directory(foo, autojump_clock):
    foo.rules.rules = rules(
        "action=allow | who=any | do=submit | "
        'params={"jobarguments.position": "/[0-9]/", "jobenv.B": "/.*/"}',
        "action=allow | who=any | do=[status, list, results] | units=all",
    )
    async with foo.running():
        await foo.submit("foo", "fib", **job(position="3"))
        await foo.submit("foo", "fib", **job(env={"B": "x"}, position="3"))
        for refused in (
            job(position="33"),
            job("/srv", position="3"),
            job(env={"A": "x"}, position="3"),
        ):
            assert await refusal(foo, **refused) == "permission denied: submit fib at foo"


# --- Descriptions --------------------------------------------------------------------------------


async def ask(at, subcommand: str, peer: str = "client", **fields: str) -> dict[str, object]:
    request = {"command": "work", "subcommand": subcommand, **fields}
    (line,) = await at.talk(request, peer=peer)
    return {"ERROR": line.removeprefix("ERROR: ")} if line.startswith("ERROR") else json.loads(line)


async def test_a_type_is_described_to_who_asks_here_and_over_the_mesh(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        here = await ask(foo, "describe", worktype="fib")
        there = await ask(foo, "describe", worktype="fib", node="bar")
        assert here.pop("Node") == "foo"
        assert there.pop("Node") == "bar"
        assert here == there
        assert here["Usage"] == USAGE.removeprefix("usage: ")
        assert here["Arguments"][0] == {
            **{"Name": "position", "Type": "int", "Required": True, "Default": None},
            **{"Min": 1, "Max": 1000, "Pattern": None, "Choices": [], "Help": ""},
        }
        assert (here["RuntimeEnv"], here["RuntimeCwd"]) == (["A", "B", "secret_*"], ["/srv"])
        (line,) = await foo.talk("work describe fib bar")
        assert json.loads(line) == there | {"Node": "bar"}


async def test_the_types_of_a_node_are_listed_here_and_over_the_mesh(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        here = await ask(foo, "types")
        there = await ask(foo, "types", node="bar")
        assert list(here["Types"]) == sorted(foo.work_types)
        assert here["Types"] == there["Types"]
        assert here["Types"]["signed"]["VerifySignature"] is True
        assert [json.loads(line) for line in await foo.talk("work types bar")] == [there]


@pytest.mark.parametrize("kind", ["receptor", "older"])
async def test_of_a_node_that_describes_nothing_is_told_what_it_advertises(
    foo, bar, kind, autojump_clock
):
    bar.is_receptor = kind == "receptor"
    foo.mesh.taken_keys = TAKEN_KEYS - {"describe"}
    bar.work_types = {name: bar.work_types[name] for name in ("cat", "fib")}
    foo.mesh.shows_types = True
    async with foo.running(), bar.running():
        types = await ask(foo, "types", node="bar")
        assert types == {
            "Node": "bar",
            "Advertised": True,
            "Types": {"cat": {"VerifySignature": False}, "fib": {"VerifySignature": False}},
        }
        told = await ask(foo, "describe", worktype="fib", node="bar")
        assert told["ERROR"] == (
            "node bar does not describe its types of work: it is receptor's, or an older meshnode; "
            "it advertises cat, fib"
        )


async def test_of_a_node_that_is_not_there_is_said_so(foo, autojump_clock):
    async with foo.running():
        for fields in ({"worktype": "fib"}, {}):
            told = await ask(foo, "describe" if fields else "types", node="bar", **fields)
            assert told["ERROR"] == "no route to node bar, or it has no control service"


async def test_an_unknown_type_is_not_described(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        told = await ask(foo, "describe", worktype="none")
        assert told["ERROR"] == "unknown work type none"
        told = await ask(foo, "describe", worktype="none", node="bar")
        assert told["ERROR"] == "node bar: unknown work type none"


async def test_who_may_submit_nothing_of_a_type_is_told_nothing_of_it(foo, bar, autojump_clock):
    foo.rules.rules = rules(
        "action=deny | who=any | do=submit | worktype=signed",
        'action=allow | who=any | do=submit | worktype=fib | params={"jobarguments.x": "y"}',
        "action=allow | who=any | do=submit | worktype=echo | tonode=bar",
    )
    async with foo.running(), bar.running():
        assert list((await ask(foo, "types"))["Types"]) == ["fib"]
        assert list((await ask(foo, "types", node="bar"))["Types"]) == ["echo", "fib"]
        assert (await ask(foo, "describe", worktype="fib"))["WorkType"] == "fib"
        for kind, node in (("signed", "foo"), ("cat", "foo"), ("cat", "bar"), ("none", "foo")):
            told = await ask(foo, "describe", worktype=kind, node=node)
            assert told["ERROR"].startswith("permission denied: submit")


async def test_a_client_from_the_mesh_is_told_of_types_of_this_node_only(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        request = {"command": "work", "subcommand": "types"}
        (own,) = await bar.talk(request, kind="mesh", peer="foo")
        assert "fib" in json.loads(own)["Types"]
        for more in ({"node": "foo"}, {"node": "foo", "subcommand": "describe", "worktype": "fib"}):
            (line,) = await bar.talk(request | more, kind="mesh", peer="baz")
            assert line.startswith("ERROR: ")


async def test_a_type_that_is_replaced_is_described_as_it_is_now(foo, autojump_clock):
    foo.work_types = types = dict(foo.work_types)
    async with foo.running():
        types["fib"] = replace(FIB, help="Another one.")
        assert (await ask(foo, "describe", worktype="fib"))["Help"] == "Another one."


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"jobtimeout": "1h"}, "timeout 3600 s is longer than work type brief allows (60 s)"),
        ({"jobtimeout": "soon"}, 'time: invalid duration "soon"'),
        ({"jobtimeout": "0s"}, "a job's timeout of 0s is not between 1 ms and 3650 days"),
        ({"jobpriority": "high"}, "priority high is no whole number from -1000 to 1000"),
        ({"jobpriority": "1001"}, "priority 1001 is no whole number from -1000 to 1000"),
        ({"jobpriority": "--1"}, "priority --1 is no whole number"),
    ],
)
async def test_a_time_or_priority_that_cannot_be_is_refused(foo, given, text):
    async with foo.running():
        assert text in await refusal(foo, worktype="brief", **given)


async def test_the_shorter_of_two_times_holds_here_and_over_there(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        for node, given in (("foo", "1s"), ("bar", "1500ms")):
            unit = await foo.submit(node, "wait", jobtimeout=given, jobpriority="7")
            await foo.wait_for(unit, lambda s: s.state is UnitState.RUNNING)
            job = foo.status(unit).job
            assert job.priority == 7
        assert foo.launcher.timeouts == [1.0]
        assert bar.launcher.timeouts == [1.5]


@given(
    st.builds(
        JobSettings,
        timeout=st.none() | st.floats(0.001, 1e8).map(lambda seconds: round(seconds, 3)),
        priority=st.integers(-1000, 1000),
    )
)
def test_time_and_priority_are_read_as_they_were_sent_and_recorded(job):
    assert JobSettings.parse(job.fields()) == job
    assert JobSettings.from_disk(job.to_disk(secrets=True) or None) == job
