"""The status of a unit as a value, and its JSON on disk (protocol section 8).

The file has receptor's five keys and meshnode's; a reply is made by
:mod:`meshnode.work.units.statusreply`. Unknown keys, as of a later version, are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any, cast

from meshnode.config.signing_directives import MAX_KEY_NAME
from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import Identity
from meshnode.work.local.launcher import records
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.after import After, recorded_after
from meshnode.work.units.endedby import CANCELED, EndedBy, what_ended
from meshnode.work.units.jobsettings import NO_SETTINGS, JobSettings
from meshnode.work.units.jsonreader import NOTHING, JsonObject, Reader
from meshnode.work.units.labels import recorded_labels
from meshnode.work.units.placement import ChosenHost, host_from_json
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.statusfields import (
    EXIT_CODES,
    PIDS,
    RECORDED,
    read_data,
    read_detail,
    read_ended_by,
    read_identity,
    read_line,
    read_numbers,
    read_size,
    read_state,
    read_supervisor,
    read_words,
    supervisor_json,
)
from meshnode.work.units.submission import MAX_SHOWN

REMOTE = "remote"
"""The work type, and the kind, of a unit that runs on another node; no other may have this name."""

COMMAND = "command"
"""The kind of a unit that is a command of this machine."""

NOT_STARTED = "lost: the node ended before the work was started"
"""How the detail begins of a unit that had all of its input but was never started."""


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """Everything that is known of a unit at one moment. Times are RFC 3339 texts in UTC."""

    state: UnitState
    detail: str
    work_type: str
    stdout_size: int = 0
    """Bytes of stdout: exact once the state is final, else as last recorded."""
    stderr_size: int | None = None
    """The same of stderr, None where errors go to stdout."""
    index_size: int | None = None
    """The same of the index of both, None where there is none."""
    files_size: int | None = None
    """Bytes of the tar of what it brings back, None where nothing was asked for."""
    held: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What the supervisor has recorded of the end of a unit whose files are being collected."""
    remote: RemoteExtra | None = None
    """Set for units of type ``remote``, and only for them."""
    runner: str = ""
    """The kind of a unit that is neither a command of this machine nor on another node."""
    runner_data: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What the runner of that kind keeps of the unit; nobody else reads it."""
    release_asked: bool = False
    """Whether a unit of that kind is to be released as soon as its runner can."""
    created: str | None = None
    started: str | None = None
    finished: str | None = None
    """When it ended; of a remote unit, as the other node says."""
    learned: str | None = None
    """When this node learned that the unit on another node had ended."""
    exit_code: int | None = None
    signal: str | None = None
    stdin_size: int | None = None
    """Bytes of input, known once all of it is here; until then nothing may be started."""
    deps_size: int = 0
    """Bytes of the tar of files that came before the input, also when it is gone."""
    params: tuple[str, ...] = ()
    """The arguments of the command, the executable first. They are dropped with the end: a client
    may send a megabyte, and ended units are kept for weeks."""
    pid: int | None = None
    """Process id of the command itself."""
    supervisor: ProcessId | None = None
    """The process that watches over the command, once there is one."""
    stdin_sha256: str = ""
    """Digest of the input, if anybody asked for it; a remote node is sent it."""
    boot: str = ""
    """The start of the machine in which the work was to be started."""
    submission_key: str = ""
    """The submitter's name of this submission, which runs once; see ``requests.Submission``."""
    submission_work: str = ""
    """Digest of the work that was submitted under that key; see ``keys.work_digest``."""
    submitter: str = ""
    """The node that a client on the mesh came from; empty for this node's clients."""
    submitted_by: Identity | None = None
    """Who submitted the unit; None of older records. What may be done with the unit is decided by
    ``submitter``."""
    signed_by: str = ""
    """The name of the key that signed the submission; empty if no signature was checked."""
    adopted_by: Identity | None = None
    """Who had this node adopt the unit; ``submitted_by`` is what the other node says then."""
    submitted_params: str = ""
    """The parameters as they were submitted: short, printable, without secrets."""
    ended_by: EndedBy | None = None
    """Who or what ended the unit, or is about to; see ``ending``."""
    released_by: Identity | None = None
    """Who asked for the release that is on record."""
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What its client calls it by; nobody here acts on them."""
    queued: bool = False
    """Whether it has waited in the queue, or for others: all of its input and this are synced, and
    so is the claim of whoever starts it."""
    after: tuple[After, ...] = ()
    """What it still waits for; see ``chains``."""
    job: JobSettings = NO_SETTINGS
    """What its client gives the job; dropped with the end, as ``params`` are."""
    resumes: bool = False
    """Whether its client sends the rest of a payload that was cut off; see ``uploads``."""
    verifies: bool | None = None
    """Whether the work type asked for a signature then; None where that is not on record."""
    limits: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    """What its processes may have, by the names of ``limit_values.LIMITS``. Of a remote unit this,
    ``usage``, ``isolation`` and ``pid`` are as its node tells them."""
    usage: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    """What a unit with limits has used: once it has ended, or up to what was last told."""
    isolation: str = ""
    """How its processes are kept apart from the machine, as one line."""
    host: ChosenHost | None = None
    """Where it may have been started, of a unit that a host without a node runs."""
    other: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def size_of(self, stream: str) -> int | None:
        """Return the recorded bytes of a file of output, None where the unit has no such file."""
        return cast("int | None", getattr(self, RECORDED[records.SIZE_KEYS[stream]][0]))

    @property
    def sizes(self) -> dict[str, int]:
        """The recorded bytes of each file of output that the unit has, by its key."""
        sizes = (self.stdout_size, self.stderr_size, self.index_size, self.files_size)
        told = zip(records.SIZE_KEYS.values(), sizes, strict=True)
        return {key: size for key, size in told if size is not None}

    @property
    def kind(self) -> str:
        """Which runner drives the unit. receptor's keys tell of its two kinds."""
        return REMOTE if self.remote is not None else self.runner or COMMAND

    @property
    def priority(self) -> int:
        """Which of those that wait in the queue goes first: the one with the highest."""
        return self.job.priority

    @property
    def is_command(self) -> bool:
        """Whether a supervisor writes the status, too; of other kinds this node alone does."""
        return self.remote is None and not self.runner

    @property
    def ending(self) -> EndedBy | None:
        """Who or what has ended the unit; None if it goes on, or has ended by itself."""
        return what_ended(self.ended_by, self.state, self.detail)

    @property
    def releasing(self) -> bool:
        """Whether a release is on record that is still to be done."""
        return self.release_asked if self.remote is None else self.remote.released

    @property
    def input_complete(self) -> bool:
        """Whether all input is here. receptor's units do not say, but having started shows it."""
        if self.stdin_size is not None or self.state is not UnitState.PENDING:
            return True
        return self.remote is not None and bool(self.remote.unit_id)

    @property
    def never_ran(self) -> bool:
        """Whether certainly nothing of it was ever started.

        Only for a unit with a key: its claim is synced before its command is executed.
        """
        if self.supervisor is not None or self.pid is not None or self.started is not None:
            return False
        is_there = self.remote is not None and self.remote.unit_id
        if is_there or self.state in {UnitState.RUNNING, UnitState.SUCCEEDED}:
            return False
        # Without all of its input nothing is started.
        return self.stdin_size is None or (
            self.state is UnitState.FAILED and self.detail.startswith(NOT_STARTED)
        )

    @property
    def needs_secrets(self) -> bool:
        """Whether the other node may still have to be sent the parameters."""
        return self.remote is not None and not (self.remote.started or self.state.is_final)

    @property
    def has_spent_secrets(self) -> bool:
        """Whether there are secret parameters that nobody needs any more."""
        if (remote := self.remote) is None or self.needs_secrets:
            return False
        return len(remote.open_params) < len(remote.params) or self.job.has_secrets

    @property
    def in_words(self) -> str:
        """State and detail for a person, and who canceled it."""
        # "Running: PID 7" and "Canceled" name the state themselves.
        if self.detail == CANCELED and self.ended_by is not None:
            return self.ended_by.in_words
        named = self.detail.startswith(self.state.label)
        return self.detail if named else f"{self.state.label}: {self.detail}"

    def without_spent_params(self) -> "UnitStatus":
        """Return the status without the command's arguments if the unit has ended."""
        is_spent = self.state.is_final and (self.params or self.job)
        return replace(self, params=(), job=NO_SETTINGS) if is_spent else self

    def asked_to_end(self, by: EndedBy | None) -> "UnitStatus":
        """Return a copy that says who has asked for the end, unless the unit has ended."""
        is_open = by is not None and self.ended_by is None and not self.state.is_final
        return replace(self, ended_by=by) if is_open else self

    def with_remote(self, **changes: Any) -> "UnitStatus":
        """Return a copy in which these fields of ``remote`` are changed."""
        if self.remote is None:
            raise WorkError("the unit is not a remote one")
        return replace(self, remote=replace(self.remote, **changes))

    def with_sizes(self, sizes: Mapping[str, int]) -> "UnitStatus":
        """Return a copy with these bytes of files of output, by their keys in a status."""
        fields: dict[str, Any] = {RECORDED[key][0]: size for key, size in sizes.items()}
        return replace(self, **fields)

    def without_release(self) -> "UnitStatus":
        """Return a copy in which no release is on record."""
        remote = self.remote and replace(self.remote, released=False)
        return replace(self, release_asked=False, remote=remote)

    def to_disk(self) -> JsonObject:
        """Return the object that stands in the unit's ``status`` file.

        Secrets are in it only for as long as the next start of this node may have to send them.
        """
        data: JsonObject = {
            "State": int(self.state),
            "Detail": self.detail,
            "StdoutSize": self.stdout_size,
            "WorkType": self.work_type,
            "ExtraData": self.remote.to_disk(secrets=self.needs_secrets) if self.remote else None,
            "Created": self.created,
            "Started": self.started,
            "Finished": self.finished,
            "ExitCode": self.exit_code,
            "Signal": self.signal,
            "StdinSize": self.stdin_size,
        }
        if self.remote is None:
            # As the supervisor does: there may be secrets among the arguments of a job.
            is_spent = self.job and self.state.is_final
            data["Params"] = [] if is_spent else list(self.params)
            data["Supervisor"] = self.supervisor and supervisor_json(self.supervisor)
        if self.remote is None or self.pid is not None:
            data["Pid"] = self.pid
        has_job = self.job and not self.state.is_final
        own = {
            "Learned": self.learned,
            "StdinSha256": self.stdin_sha256,
            "Boot": self.boot,
            "SubmissionKey": self.submission_key,
            "SubmissionWork": self.submission_work,
            "Submitter": self.submitter,
            "SubmittedBy": self.submitted_by and self.submitted_by.to_json(),
            "SignedBy": self.signed_by,
            "AdoptedBy": self.adopted_by and self.adopted_by.to_json(),
            "SubmittedParams": self.submitted_params,
            "EndedBy": self.ended_by and self.ended_by.to_json(),
            "ReleasedBy": self.released_by and self.released_by.to_json(),
            "Labels": dict(self.labels),
            "Job": self.job.to_disk(secrets=not self.remote or self.needs_secrets)
            if has_job
            else None,
            "Limits": dict(self.limits),
            "Usage": dict(self.usage),
            "Isolation": self.isolation,
            "Host": self.host and self.host.to_json(),
            "Runner": self.runner,
            "RunnerData": dict(self.runner_data),
            "Held": dict(self.held),
            "ReleaseAsked": self.release_asked,
            "Queued": self.queued,
            "After": ",".join(map(str, self.after)),
            "Resumes": self.resumes,
            "DepsSize": self.deps_size,
        }
        known = {
            "StderrSize": self.stderr_size,
            "IndexSize": self.index_size,
            "FilesSize": self.files_size,
            "VerifySignature": self.verifies,
        }
        return {
            **data,
            **{key: value for key, value in own.items() if value},
            **{key: value for key, value in known.items() if value is not None},
            **self.other,
        }

    def input_to_disk(self) -> JsonObject:
        """Return the part of it that is known only since the end of the input."""
        size: JsonObject = {"StdinSize": self.stdin_size}
        return size | ({"StdinSha256": self.stdin_sha256} if self.stdin_sha256 else {})

    def merged(self, changes: Mapping[str, Any]) -> "UnitStatus":
        """Return what a status says with ``changes``, which a supervisor has made on disk.

        Raises:
            WorkError: it is none.
        """
        if self.remote is not None or not changes.keys() <= RECORDED.keys():
            return UnitStatus.from_json({**self.to_disk(), **changes})
        # To parse the whole status again, twice for each unit, is a tenth of what a unit costs.
        reader = Reader(changes)
        new = {RECORDED[key][0]: RECORDED[key][1](reader) for key in changes}
        if new.get("state", self.state).is_final:
            new |= {"params": (), "job": NO_SETTINGS}
            # Who asked is on record only if that was what ended it.
            new.setdefault("ended_by", None)
        return replace(self, **new)

    @classmethod
    def from_json(cls, data: object) -> "UnitStatus":
        """Read an object from disk. Raises WorkError if it is no status.

        Texts that many units share are in memory once.
        """
        reader = Reader(data)
        state = read_state(reader)
        work_type = intern(reader.require("WorkType", str))
        extra = reader.take("ExtraData", object, None)
        reader.drop("StateName")
        words = read_words(reader.take("Params", list, None))
        job = JobSettings.from_disk(reader.take("Job", dict, None))
        return cls(
            state=state,
            detail=read_detail(reader),
            work_type=work_type,
            stdout_size=read_size(reader),
            stderr_size=reader.whole("StderrSize"),
            index_size=reader.whole("IndexSize"),
            files_size=reader.whole("FilesSize"),
            held=read_data(reader, "Held"),
            remote=RemoteExtra.from_json(extra) if work_type == REMOTE else None,
            created=reader.time("Created"),
            started=reader.time("Started"),
            finished=reader.time("Finished"),
            learned=reader.time("Learned"),
            exit_code=reader.whole("ExitCode", EXIT_CODES),
            signal=reader.take("Signal", str, None),
            stdin_size=reader.whole("StdinSize"),
            params=() if state.is_final else words,
            pid=reader.whole("Pid", PIDS),
            supervisor=read_supervisor(reader),
            stdin_sha256=reader.take("StdinSha256", str, ""),
            boot=intern(reader.take("Boot", str, "")),
            submission_key=reader.take("SubmissionKey", str, ""),
            submission_work=reader.take("SubmissionWork", str, ""),
            submitter=intern(reader.take("Submitter", str, "")),
            submitted_by=read_identity(reader, "SubmittedBy"),
            signed_by=intern(read_line(reader, "SignedBy", MAX_KEY_NAME)),
            adopted_by=read_identity(reader, "AdoptedBy"),
            submitted_params=read_line(reader, "SubmittedParams", MAX_SHOWN),
            ended_by=read_ended_by(reader),
            released_by=read_identity(reader, "ReleasedBy"),
            labels=recorded_labels(reader.take("Labels", object, None)),
            job=NO_SETTINGS if state.is_final else job,
            limits=read_numbers(reader, "Limits"),
            usage=read_numbers(reader, "Usage"),
            isolation=intern(read_line(reader, "Isolation", MAX_SHOWN)),
            host=reader.understood("Host", host_from_json),
            verifies=reader.take("VerifySignature", bool, None),
            runner=intern(reader.take("Runner", str, "")),
            runner_data=read_data(reader, "RunnerData"),
            release_asked=reader.take("ReleaseAsked", bool, False),
            queued=reader.take("Queued", bool, False),
            after=recorded_after(reader.take("After", str, "")),
            resumes=reader.take("Resumes", bool, False),
            deps_size=reader.whole("DepsSize") or 0,
            other=reader.others(),
        )
