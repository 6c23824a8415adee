"""What clients see of a unit's status: the JSON of a reply (protocol section 8).

It has receptor's keys and meshnode's, leaves out what only this node needs, and never shows a
secret.
"""

import shlex

from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.status import UnitStatus


def status_reply(status: UnitStatus, stdout_size: int) -> JsonObject:
    """Return the object that clients see; ``stdout_size`` is stdout's size at this moment."""
    return {
        "State": int(status.state),
        "StateName": status.state.label,
        "Detail": status.detail,
        "StdoutSize": stdout_size,
        "WorkType": status.work_type,
        "ExtraData": _extra(status),
        "Created": status.created,
        "Started": status.started,
        "Finished": status.finished,
        "ExitCode": status.exit_code,
        "Signal": status.signal,
        "StdinSize": status.stdin_size,
        "SubmittedParams": status.submitted_params,
        **_people(status),
        **_more(status),
    }


def _people(status: UnitStatus) -> JsonObject:
    """Return who submitted and who ended the unit."""
    end = status.ending
    return {
        "SubmittedBy": status.submitted_by and status.submitted_by.to_json(),
        "EndedBy": end and end.to_json(),
        **({"AdoptedBy": status.adopted_by.to_json()} if status.adopted_by else {}),
    }


def _more(status: UnitStatus) -> JsonObject:
    """Return what few units have."""
    more: JsonObject = {
        "Pid": status.pid,
        "SignedBy": status.signed_by,
        "Labels": dict(status.labels),
        "Limits": dict(status.limits),
        "Usage": dict(status.usage),
        "Isolation": status.isolation,
        "Host": status.host and status.host.to_json(),
        "Priority": status.priority,
        "DepsSize": status.deps_size,
        "After": [str(one) for one in status.after],
    }
    return {key: value for key, value in more.items() if value}


def _extra(status: UnitStatus) -> JsonObject | None:
    """receptor shows a command's pid and parameters while it runs, and nothing afterwards."""
    if status.remote is not None:
        return status.remote.to_json(secrets=False)
    if status.state.is_final:
        return None
    if status.job.has_secret_arguments:
        # They are among the words.
        return {"Pid": status.pid or 0, "Params": status.submitted_params}
    return {"Pid": status.pid or 0, "Params": shlex.join(status.params[1:])}
