"""A client lowers the limits of a type for one unit, and never raises them."""

import pytest

from meshnode.config.limit_values import JobLimits
from meshnode.errors import CommandError
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.jobsettings import JobSettings
from meshnode.work.units.submission import Submission, parse_submission

MIB = 1024 * 1024
LIMITED = CommandType("true", limits=JobLimits({"memory": 256 * MIB, "pids": 64}))


def submission(**limits: str) -> Submission:
    return Submission(node="", work_type="x", job=JobSettings(limits=limits))


def test_a_unit_has_the_limits_of_its_type_where_its_client_gives_none() -> None:
    assert LIMITED.plan(submission()).limits == {"memory": 256 * MIB, "pids": 64}


def test_a_client_lowers_them_for_its_unit() -> None:
    planned = LIMITED.plan(submission(memory="64MiB", files="100")).limits
    assert planned == {"memory": 64 * MIB, "pids": 64, "files": 100}


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        (LIMITED, {"memory": "1GiB"}, "memory: 1GiB is more than the 256MiB of its type"),
        (LIMITED, {"cpu": "1"}, "cpu: its type has no such limit that could be lowered"),
        (LIMITED, {"memory": "much"}, 'memory: "much" is not a size'),
        (CommandType("true"), {"memory": "1MiB"}, "it has no limits that could be lowered"),
    ],
)
def test_what_is_no_lower_limit_is_refused_before_anything_starts(
    kind: CommandType, limits: dict[str, str], words: str
) -> None:
    with pytest.raises(CommandError, match="work type x: ") as caught:
        kind.plan(submission(**limits))
    assert words in str(caught.value)


def test_limits_come_with_a_submission_and_are_kept_until_it_has_started() -> None:
    sent = {"node": "foo", "worktype": "x", "joblimits": '{"memory": "64MiB"}'}
    job = parse_submission(sent).job
    assert job.limits == {"memory": "64MiB"}
    assert parse_submission(sent).params == {}
    assert JobSettings.from_disk(job.to_disk(secrets=True)) == job
    assert JobSettings.parse(job.fields()) == job
    assert job.as_params() == {"joblimits.memory": "64MiB"}
