"""The judge of storms finds what is false, and a stand-in for receptor says what receptor says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from excuses import (
    ON_ALL_HOSTS,
    ON_EXECUTOR,
    ON_HOST,
    ON_SUBMITTER,
    ON_UNIT,
    RESTARTED,
    UNFINISHED,
    Course,
    Excuse,
)
from harness import Cluster
from leavings import Leavings, is_nobodys
from ledger import Entry
from machines import FORGOTTEN, Hit
from plan import DIAMOND, FAULTS, SSH_TYPES, Job, make_plan
from receptor_front import as_receptor_reads, as_receptor_says
from scene import Fate, Scene
from verdict import Case, Verdict

CAPTURES = Path(__file__).parents[1] / "data" / "captures" / "session2_keylog.streams"
ALL_EXCUSES = (
    *(*ON_UNIT, *ON_SUBMITTER, *ON_EXECUTOR, *RESTARTED, *UNFINISHED),
    *(*ON_HOST, *ON_ALL_HOSTS),
)


class Quiet:
    """A node that nothing has happened to."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []


@pytest.fixture
def scene(cluster: Cluster) -> Scene:
    scene = Scene(cluster, make_plan(DIAMOND, 1, 1, list(FAULTS)), fills=())
    scene.nodes = {name: Quiet() for name in DIAMOND.nodes}  # type: ignore[misc]
    return scene


def make_case(end: str = "Succeeded: exit status 0", **changes: object) -> Case:
    job = Job("s1-0", "lines", "a", "d", 1, b"", False, False, 0.0)
    fate = Fate(job, unit="aaaaaaaa", begun=1.0, sent=True, answer='{"result":"Job Started"}')
    state, detail = end.split(": ", 1)
    output = changes.get("output", job.output)
    size = len(output) if isinstance(output, bytes) else 0
    status = {"StateName": state, "Detail": detail, "StdoutSize": size}
    known = {"fate": fate, "status": status, "record": status, "output": output}
    return Case(**{**known, "starts": 1, "ends": 1, **changes})  # type: ignore[arg-type]


def faults(scene: Scene, case: Case) -> list[str]:
    return list(Verdict(scene).faults(case))


def test_a_unit_that_did_all_it_should_is_at_no_fault(scene: Scene) -> None:
    assert faults(scene, make_case()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"starts": 2}, "ran 2 times"),
        ({"ends": 0}, "completed after 1 starts and 0 ends"),
        ({"output": b"s1"}, "completed, and its output of 2 bytes is not the 7 printed"),
        ({"output": None}, "its results cannot be read"),
        ({"output": b"other\n\n"}, "has output that was never printed"),
        ({"status": None}, "its node does not know it"),
        ({"end": "Failed: lost: because"}, "and nothing explains that"),
        ({"end": "Canceled: Canceled"}, "and nothing explains that"),
        ({"end": "Failed: exit status 3"}, "and nothing explains that"),
    ],
)
def test_what_is_false_of_a_unit_that_nothing_hit_is_found(
    scene: Scene, changes: dict[str, object], fault: str
) -> None:
    assert any(fault in found for found in faults(scene, make_case(**changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kinds", "starts", "ends", "found"),
    [
        ((FORGOTTEN,), 2, 2, ""),
        ((FORGOTTEN,), 2, 1, ""),
        ((FORGOTTEN,), 3, 3, "ran 3 times"),
        ((FORGOTTEN,), 1, 0, "1 starts and 0 ends"),
        ((), 2, 1, "ran 2 times"),
        (("spoil status", "spoil directory", "release there"), 2, 2, "ran 2 times"),
    ],
)
def test_only_work_whose_every_trace_was_deleted_where_it_ran_may_run_once_more(
    scene: Scene, kinds: tuple[str, ...], starts: int, ends: int, found: str
) -> None:
    case = make_case(starts=starts, ends=ends)
    case.fate.hits += [Hit(kind) for kind in kinds]
    assert [found in fault for fault in faults(scene, case)][:1] == ([True] if found else [])


def test_a_payload_that_was_not_complete_must_not_run(scene: Scene) -> None:
    case = make_case("Failed: Error reading input data: gone", output=b"", ends=0)
    case.fate.sent, case.fate.answer = False, ""
    assert "ran without its payload" in faults(scene, case)


@pytest.mark.parametrize("excuse", ALL_EXCUSES, ids=lambda excuse: excuse.hit)
def test_no_hit_explains_a_success_or_an_exit_code_that_was_not_printed(excuse: Excuse) -> None:
    course = Course(runs=1, accepted=False, short=True)
    assert not excuse.explains("Succeeded: exit status 0", course)
    assert not excuse.explains("Failed: exit status 3", course)


def test_a_hit_explains_its_own_ends_and_no_others(scene: Scene) -> None:
    case = make_case("Failed: lost: its supervisor (PID 7) ended without recording an end", ends=0)
    case.fate.hits.append(Hit("kill command"))
    assert any("kill command explains that" in fault for fault in faults(scene, case))
    case.fate.hits.append(Hit("kill supervisor"))
    assert faults(scene, case) == []


FULL = "; no space left on the disk of its output"
MAYBE_LESS = f"{FULL}, which may be incomplete"
NOT_RECORDED = "Failed: Error starting worker: cannot record the status: No space left on device"


def fill_disk(scene: Scene, node: str, begun: float = 1.5, over: float = 2.0) -> None:
    scene.nodes[node].hits.append(Hit("fill disk", begun=begun, over=over))


def test_what_a_node_went_through_before_there_was_the_unit_explains_nothing(scene: Scene) -> None:
    case = make_case(f"Failed: exit status 1{FULL}", ends=0, output=b"")
    fill_disk(scene, "d", begun=0.0, over=0.5)
    assert any("nothing explains that" in fault for fault in faults(scene, case))
    fill_disk(scene, "d")
    assert faults(scene, case) == []


@pytest.mark.parametrize(
    ("end", "ends", "output", "found"),
    [
        (f"Succeeded: exit status 0{MAYBE_LESS}", 1, b"s1-0 0\n", ""),
        (f"Succeeded: exit status 0{MAYBE_LESS}", 1, b"s1", "is not the 7 printed"),
        (f"Succeeded: exit status 0{MAYBE_LESS}", 0, b"s1-0 0\n", "1 starts and 0 ends"),
        (f"Failed: exit status 1{FULL}", 0, b"s1", ""),
        ("Failed: exit status 1", 0, b"s1", ""),
        ("Failed: exit status 1", 0, b"s1-0 0\n", "fill disk explains that"),
        (f"Failed: exit status 3{FULL}", 0, b"s1", "fill disk explains that"),
        (f"Failed: signal: killed{FULL}", 0, b"s1", "fill disk explains that"),
        ("Failed: Error reading input data: No space left on device", 0, b"", "fill disk explains"),
    ],
)
def test_a_full_disk_explains_how_a_command_ends_that_finds_no_room_and_excuses_no_other_lack(
    scene: Scene, end: str, ends: int, output: bytes, found: str
) -> None:
    case = make_case(end, ends=ends, output=output)
    assert any("nothing explains that" in fault for fault in faults(scene, case))
    fill_disk(scene, "a")
    assert any("explains that" in fault for fault in faults(scene, case))
    fill_disk(scene, "d")
    assert [found in fault for fault in faults(scene, case)][:1] == ([True] if found else [])


def test_the_words_of_a_full_disk_hide_nothing_else_that_was_done_to_a_unit(scene: Scene) -> None:
    case = make_case(f"Failed: signal: killed{FULL}", ends=0, output=b"")
    case.fate.hits.append(Hit("kill command"))
    assert any("kill command explains that" in fault for fault in faults(scene, case))
    fill_disk(scene, "d")
    assert faults(scene, case) == []


@pytest.mark.parametrize(
    ("answer", "starts", "node", "found"),
    [
        ("ERROR: Error starting worker: cannot record the status", 0, "a", False),
        ("", 0, "a", False),
        ('{"result":"Job Started"}', 0, "a", True),
        ("ERROR: Error starting worker: cannot record the status", 1, "a", True),
        ("ERROR: Error starting worker: cannot record the status", 0, "b", True),
    ],
)
def test_only_what_was_not_accepted_may_fail_for_want_of_room_on_its_submitter(
    scene: Scene, answer: str, starts: int, node: str, found: bool
) -> None:
    case = make_case(NOT_RECORDED, starts=starts, ends=0, output=b"")
    case.fate.answer = answer
    fill_disk(scene, node)
    assert any("explains that" in fault for fault in faults(scene, case)) == found


@pytest.mark.parametrize(
    ("receptor", "hit", "starts", "found"),
    [
        ("d", "kill node", 0, False),
        ("d", "stop node", 0, False),
        ("d", "kill node", 1, True),
        ("d", "freeze node", 0, True),
        ("", "kill node", 0, True),
        ("b", "kill node", 0, True),
    ],
)
def test_only_a_receptor_node_that_went_may_leave_work_undone_at_its_restart(
    scene: Scene, receptor: str, hit: str, starts: int, found: bool
) -> None:
    scene.flavour = replace(scene.flavour, receptor=receptor)
    case = make_case("Failed: Pending at restart", starts=starts, ends=0, output=b"")
    scene.nodes["d"].hits.append(Hit(hit, begun=1.5, over=2.0))
    assert any("explains that" in fault for fault in faults(scene, case)) == found


def hit_host(scene: Scene, kind: str, host: str, begun: float = 1.5) -> None:
    scene.far.hits.setdefault(host, []).append(Hit(kind, begun=begun, over=begun + 0.5))


def on_host(case: Case, host: str) -> Case:
    status = (case.status or {}) | {"Host": {"Name": host, "Chosen": "random of 2"}}
    return replace(case, status=status, record=status)


@pytest.mark.parametrize(
    ("host", "output", "begun", "found"),
    [
        ("anna", b"s1", 1.5, False),
        ("anna", b"s1-0 0\n", 1.5, True),
        ("anna", b"s1", 0.0, True),
        ("bert", b"s1", 1.5, True),
    ],
)
def test_a_full_host_explains_what_is_missing_of_the_units_that_it_ran_meanwhile(
    scene: Scene, host: str, output: bytes, begun: float, found: bool
) -> None:
    case = on_host(make_case("Failed: exit status 1", ends=0, output=output), "anna")
    hit_host(scene, "fill host", host, begun)
    assert any("explains that" in fault for fault in faults(scene, case)) == found


NOBODY = "no host can run it: host anna: connect: its host key has changed: x; host bert: connect: "


@pytest.mark.parametrize(
    ("hosts", "starts", "end", "found"),
    [
        (("anna", "bert"), 0, f"{NOBODY}its host key has changed: y", False),
        (("anna", "bert"), 1, f"{NOBODY}its host key has changed: y", True),
        (("anna", "bert"), 0, f"{NOBODY}may not log in", True),
        (("anna",), 0, f"{NOBODY}its host key has changed: y", True),
    ],
)
def test_other_host_keys_explain_why_no_host_ran_a_unit_only_if_each_had_one(
    scene: Scene, hosts: tuple[str, ...], starts: int, end: str, found: bool
) -> None:
    case = make_case(f"Failed: {end}", starts=starts, ends=0, output=b"")
    scene.far.hits.update({"anna": [], "bert": []})
    for host in hosts:
        hit_host(scene, "swap host key", host)
    assert any("explains that" in fault for fault in faults(scene, case)) == found


@pytest.mark.parametrize("stream", sorted(CAPTURES.glob("*.client.bin")), ids=lambda p: p.name[:8])
def test_the_stand_in_for_receptor_takes_and_says_what_was_recorded_as_it_is(stream: Path) -> None:
    misled: list[str] = []
    # The first byte is the stream's own.
    for line in stream.read_bytes()[1:].splitlines(keepends=True):
        read = as_receptor_reads(line, misled.append)
        assert read is not None
        assert read == line or json.loads(read) == json.loads(line)
    server = stream.with_name(stream.name.replace("client", "server"))
    for line in server.read_bytes().splitlines(keepends=True):
        said = as_receptor_says(line)
        assert said == line or json.loads(said) == json.loads(line)
    assert misled == []


def test_the_stand_in_for_receptor_knows_nothing_of_our_own() -> None:
    misled: list[str] = []
    assert as_receptor_reads(b'{"command":"work","subcommand":"watch"}\n', misled.append) is None
    assert as_receptor_reads(b"work watch aaaaaaaa\n", misled.append) is None
    cancel = b'{"command":"work","subcommand":"cancel","unless":"started"}\n'
    assert b"unless" not in (as_receptor_reads(cancel, misled.append) or b"")
    submit = b'{"command":"work","subcommand":"submit","submissionkey":"a:b"}\n'
    assert b"submissionkey" not in (as_receptor_reads(submit, misled.append) or b"")
    assert misled == ["submit with submissionkey"]
    status = {"State": 3, "StateName": "Failed", "StdoutSize": 0, "WorkType": "job"}
    own = {"ExtraData": None, "Created": "now", "Detail": "lost: the node ended before it began"}
    said = json.loads(as_receptor_says(json.dumps(status | own).encode() + b"\n"))
    assert said == status | {"ExtraData": None, "Detail": "Pending at restart"}


@pytest.mark.parametrize(
    ("kinds", "nobodys"),
    [
        (("kill supervisor", "spoil directory"), True),
        (("kill supervisor",), False),
        (("spoil directory",), False),
        (("kill supervisor", "spoil status"), False),
        ((), False),
    ],
)
def test_only_a_process_that_nobody_can_know_of_may_be_left(
    kinds: tuple[str, ...], nobodys: bool
) -> None:
    fate = make_case().fate
    fate.hits += [Hit(kind) for kind in kinds]
    assert is_nobodys(fate) == nobodys
    assert not is_nobodys(None)


@pytest.mark.parametrize(
    ("node", "unanswered", "ran", "explained"),
    [("a", 1, False, True), ("a", 0, False, False), ("a", 1, True, False), ("d", 1, False, False)],
)
def test_a_unit_whose_id_nobody_was_told_may_be_left_where_it_was_submitted_if_it_never_ran(
    scene: Scene, node: str, unanswered: int, ran: bool, explained: bool
) -> None:
    fate = make_case().fate
    fate.unanswered = unanswered
    scene.fates[fate.job.token] = fate
    for name in scene.nodes:
        ran_there = ran and name == node
        scene.ledger.entries += [Entry(1.0, "start", fate.job.token, name, "Left1234")] * ran_there
    left = Leavings(scene, Verdict(scene))
    assert left.is_explained(fate.job.token, node, "Left1234") == explained


def bringing(case: Case, files: dict[str, bytes] | None, detail: str = "") -> Case:
    """Return the case of a unit that ran on anna and has brought back these files."""
    job = replace(case.fate.job, work_types=SSH_TYPES)
    status = (case.status or {}) | {"Detail": f"exit status 0{detail}"}
    case = replace(case, fate=replace(case.fate, job=job), status=status, files=files)
    return on_host(case, "anna")


@pytest.mark.parametrize(
    ("files", "filled", "found"),
    [
        ({"s1-0.out": b"s1-0\n"}, False, False),
        ({"s1-0.out": b"s1"}, False, True),
        ({}, False, True),
        (None, False, True),
        ({"s1-0.out": b"s1"}, True, False),
        ({}, True, False),
        ({"s1-0.out": b"else"}, True, True),
        ({"other": b""}, True, True),
    ],
)
def test_files_that_a_completed_unit_has_not_brought_back_are_found_unless_its_host_was_full(
    scene: Scene, files: dict[str, bytes] | None, filled: bool, found: bool
) -> None:
    if filled:
        hit_host(scene, "fill host", "anna")
    case = bringing(make_case(), files, "; collected 1 file")
    assert any("brought back" in fault for fault in faults(scene, case)) == found
