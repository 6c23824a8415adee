"""Units' files and the JSON in them."""

import contextlib
import json
import os
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import UnknownUnit, WorkError
from meshnode.files import READ_BYTES
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.shortage import NotRecorded
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusreply import status_reply
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

STATUS = UnitStatus(UnitState.PENDING, "Unit Created", "echo", params=("echo", "hi"))

texts = st.text(max_size=20)
moments = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC)
)
remotes = st.builds(
    RemoteExtra,
    node=texts.filter(bool),
    work_type=texts.filter(bool),
    params=st.dictionaries(texts, texts, max_size=3),
    unit_id=texts,
    started=st.booleans(),
    cancelled=st.booleans(),
    released=st.booleans(),
    sign_work=st.booleans(),
    tls_client=texts,
    expiration=st.none() | moments,
    other=st.just({}) | st.just({"Later": [1, {"a": None}]}),
)
sizes = st.integers(min_value=0, max_value=2**63 - 1)
local_statuses = st.builds(
    UnitStatus,
    state=st.sampled_from(UnitState),
    detail=texts,
    work_type=texts.filter(lambda text: bool(text) and text != "remote"),
    stdout_size=sizes,
    remote=st.none(),
    created=st.none() | moments.map(format_datetime),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | texts,
    stdin_size=st.none() | sizes,
    params=st.lists(texts).map(tuple),
    pid=st.none() | st.integers(1, 2**22),
    supervisor=st.none() | st.builds(ProcessId, st.integers(1, 2**22), sizes),
    other=st.just({}) | st.just({"Later": True}),
)
statuses = local_statuses | st.builds(
    replace, local_statuses, work_type=st.just("remote"), remote=remotes
).map(lambda status: replace(status, params=(), pid=None, supervisor=None))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(list(STATUS.to_disk()) + list(RemoteExtra("n", "t").to_json(secrets=True)))


@given(statuses)
def test_what_is_written_reads_back_equal_with_unknown_keys(status):
    read = UnitStatus.from_json(json.loads(json.dumps(status.to_disk())))
    assert read == (replace(status, params=()) if status.state.is_final else status)


@given(json_values | st.dictionaries(KEYS, json_values | st.just("remote")))
def test_any_json_is_a_status_or_a_named_error(data):
    with contextlib.suppress(WorkError):
        assert status_reply(UnitStatus.from_json(data), 0)["StateName"]


RECORDS = (
    *("State", "Detail", "StdoutSize", "Started", "Finished", "ExitCode", "Signal"),
    *("StdinSize", "StdinSha256", "Pid", "Supervisor"),
)
plausible = (
    st.sampled_from(list(UnitState)).map(int)
    | moments.map(format_datetime)
    | st.fixed_dictionaries({"Pid": st.integers(1, 2**22), "Started": sizes})
)


@given(statuses, st.dictionaries(KEYS | st.sampled_from(RECORDS), json_values | plausible))
def test_what_a_supervisor_changes_is_merged_as_if_all_of_it_were_read_anew(status, changes):
    def anew():
        # Every status has been read or written once, without the words of what has ended.
        return UnitStatus.from_json({**status.to_disk(), **changes})

    assert _or_refused(lambda: status.merged(changes)) == _or_refused(anew)


def _or_refused(read):
    try:
        return read()
    except WorkError:
        return "refused"


def test_reading_many_units_takes_no_memory_that_is_not_kept(store):
    for _ in range(300):
        store.create(STATUS)
    store.scan()
    tracemalloc.start()
    try:
        found = store.scan()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 300
    # One read of a file asks for more than it gets.
    assert peak - kept < READ_BYTES + 300 * 100


def test_the_guides_status_files_read_and_keep_receptors_keys_in_place():
    data = {
        "State": 2,
        "Detail": "exit status 0",
        "StdoutSize": 30,
        "WorkType": "remote",
        "ExtraData": {
            "RemoteNode": "bar",
            "RemoteWorkType": "echopayload",
            "RemoteParams": {},
            "RemoteUnitID": "NImim5WA",
            "RemoteStarted": True,
            "LocalCancelled": False,
            "LocalReleased": False,
            "TLSClient": "",
            "Expiration": "0001-01-01T00:00:00Z",
        },
    }
    status = UnitStatus.from_json(data)
    assert status.remote.expiration is None
    written = status.to_disk()
    assert list(written)[:5] == list(data)
    assert written["ExtraData"] == data["ExtraData"] | {"SignWork": False}


def test_expirations_as_go_writes_them_are_read():
    extra = RemoteExtra("bar", "echo").to_json(secrets=True)
    for text in ("2026-11-22T05:00:00.123456789+02:00", "2026-11-22T03:00:00.123456Z"):
        read = RemoteExtra.from_json(extra | {"Expiration": text})
        assert read.expiration == datetime(2026, 11, 22, 3, 0, 0, 123456, UTC)


@given(
    st.sampled_from(["secret_", "SECRET_", "Secret_x"]),
    st.sampled_from(UnitState),
    st.booleans(),
)
def test_secrets_are_in_no_reply_and_on_disk_only_until_the_other_node_has_them(
    key, state, started
):
    remote = RemoteExtra("bar", "echo", {key: "hush", "open": "yes"}, started=started)
    status = UnitStatus(state, "", "remote", remote=remote)
    needed = not started and not state.is_final
    assert ("hush" in json.dumps(status.to_disk())) is needed
    assert status.has_spent_secrets is not needed
    assert status.to_disk()["ExtraData"]["RemoteParams"]["open"] == "yes"
    assert "hush" not in json.dumps(status_reply(status, 0))
    assert status_reply(status, 0)["ExtraData"]["RemoteParams"] == {"open": "yes"}


@pytest.fixture
def store(tmp_path):
    store = UnitStore(tmp_path / "data" / "foo")
    store.prepare()
    yield store
    store.close()


def test_ids_are_eight_letters_and_digits_and_never_one_that_is_taken(store, monkeypatch):
    numbers = iter([0, 0, 62**8 - 1])
    monkeypatch.setattr("secrets.randbelow", lambda limit: next(numbers))
    assert store.create(STATUS) == "aaaaaaaa"
    assert store.create(STATUS) == "99999999"


def test_a_unit_that_cannot_be_made_leaves_nothing(store, monkeypatch):
    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(WorkError, match="cannot create a work unit: No space left on device"):
        store.create(STATUS)
    assert list(store.root.iterdir()) == []


def test_a_store_that_cannot_be_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(WorkError, match=r"cannot use .*/data/foo for units: Not a directory"):
        UnitStore(tmp_path / "data" / "foo").prepare()


def test_a_store_has_one_owner_at_a_time(store):
    second = UnitStore(store.root)
    with pytest.raises(WorkError, match="is in use by a running node"):
        second.prepare()
    store.close()
    second.prepare()
    second.close()


def test_burying_a_unit_twice_says_that_it_is_unknown(store):
    unit_id = store.create(STATUS)
    store.purge(store.unlink(unit_id))
    with pytest.raises(UnknownUnit):
        store.unlink(unit_id)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"\xff", b'{"State":7,"WorkType":"x"}'])
def test_a_damaged_status_is_an_error_that_names_the_file(store, text):
    unit_id = store.create(STATUS)
    (store.directory(unit_id) / "status").write_bytes(text)
    with pytest.raises(WorkError, match=f"{unit_id}/status"):
        store.read_status(unit_id)
    assert store.scan() == []


def test_a_file_is_appended_to_from_where_it_ends(tmp_path):
    path = tmp_path / "stdout"
    path.write_bytes(b"abc")
    file = UnitFile(path, append=True)
    assert file.size == 3
    file.write(b"def")
    file.sync()
    file.close()
    assert (file.size, path.read_bytes()) == (6, b"abcdef")


# --- Unit -------------------------------------------------------------------------------------


def make_unit(store, status=STATUS):
    return Unit(store.create(status), status, store)


async def test_an_illegal_change_is_refused_and_changes_nothing(store):
    unit = make_unit(store)
    await unit.end(UnitState.CANCELED, "Canceled")
    with pytest.raises(WorkError, match="cannot go from Canceled to Running"):
        await unit.change(lambda status: replace(status, state=UnitState.RUNNING))
    assert store.read_status(unit.unit_id).state is UnitState.CANCELED


async def test_a_full_disk_refuses_a_change_and_an_end_waits_for_room(
    store, monkeypatch, nursery, inline_threads, autojump_clock
):
    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    unit = make_unit(store)
    with monkeypatch.context() as full:
        full.setattr(store, "write_status", refuse)
        with pytest.raises(WorkError, match="cannot record the status: No space left on device"):
            await unit.change(lambda status: replace(status, detail="new"))
        assert unit.status == STATUS
        nursery.start_soon(unit.fail, "no reason")
        with pytest.raises(NotRecorded, match="waiting for disk space to record: Failed: no rea"):
            await unit.wait_ended()
        await trio.sleep(1000)
        assert (unit.status.state, unit.is_final) == (STATUS.state, False)
        assert store.read_status(unit.unit_id) == STATUS
    await unit.wait_final()
    assert unit.status.detail == "no reason"
    assert store.read_status(unit.unit_id) == unit.status


async def test_all_waiters_wake_at_a_change_and_none_without_one(store, nursery):
    unit = make_unit(store)
    seen = []

    async def wait():
        await unit.wait_changed(0)
        seen.append(unit.status.detail)

    for _ in range(3):
        nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    await unit.change(lambda status: status)
    await trio.testing.wait_all_tasks_blocked()
    assert seen == []
    await unit.change(lambda status: replace(status, detail="new"))
    await trio.testing.wait_all_tasks_blocked()
    assert seen == ["new"] * 3


async def test_concurrent_changes_all_count(store, nursery):
    unit = make_unit(store)
    async with trio.open_nursery() as changes:
        for number in range(20):
            changes.start_soon(
                lambda number=number: unit.change(
                    lambda status: replace(status, other={**status.other, f"k{number}": number}),
                    durable=number % 2 == 0,
                )
            )
    assert len(unit.status.other) == 20
    assert store.read_status(unit.unit_id) == unit.status
