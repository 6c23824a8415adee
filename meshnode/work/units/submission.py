"""One submission: what a client asks to have run, as a value and as it is sent.

A key of a submission that says nothing of how to submit is a parameter of the work.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from meshnode.errors import CommandError
from meshnode.protocol.control import CLAIM_KEY, LABELS_KEY, RESUME_KEY
from meshnode.security.identity import Claimed, shown_text
from meshnode.work.units.after import AFTER_KEY, After, is_member_key, parse_after
from meshnode.work.units.intake import Input
from meshnode.work.units.jobsettings import KEYS, NO_SETTINGS, JobSettings
from meshnode.work.units.jsonreader import NOTHING, JsonObject
from meshnode.work.units.labels import parse_labels
from meshnode.work.units.placement import Placement, parse_placement
from meshnode.work.units.remoteextra import is_secret
from meshnode.work.units.requestfields import (
    MAX_POSITION,
    read_claim,
    read_flag,
    read_key,
    read_node,
    read_string,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_SHOWN = 200
"""Characters of the parameters that are shown of a unit for as long as it is there. A client may
send a megabyte, and ended units are kept for weeks."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks to have run, as it was sent."""

    node: str
    work_type: str
    params: Mapping[str, str] = field(default_factory=dict)
    tls_client: str = ""
    ttl: str = ""
    sign_work: bool = False
    signature: str = ""
    announced: Input = field(default_factory=Input)
    """What the client says of the payload; nothing else is started."""
    follow: bool = False
    """Whether the session goes on to tell of the unit until it is final."""
    key: str = ""
    """Names the submission: a second one of the same key is refused for as long as its unit
    exists. A submitting meshnode makes it of its unit's ID and a secret."""
    claim: Claimed | None = None
    """For whom a submitting node says that it submits."""
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What the client calls the unit by."""
    job: JobSettings = NO_SETTINGS
    """What the client gives the job beside its payload."""
    placement: Placement | None = None
    """How to choose the node; None if it is named."""
    after: tuple[After, ...] = ()
    """What must have ended before it starts."""
    resumes: bool = False
    """Whether the client sends the rest of its payload after a cut; it says what the whole is."""

    @property
    def shown_params(self) -> str:
        """What the client gives as a line for people, without secrets; see MAX_SHOWN."""
        return shown_params(self.params, self.job)

    @property
    def all_params(self) -> Mapping[str, str]:
        """What access rules see: the parameters, and what the client gives the job."""
        return {**self.params, **self.job.as_params()} if self.job else self.params


def shown_params(params: Mapping[str, str], job: JobSettings = NO_SETTINGS) -> str:
    """Return parameters as a line for people, without secrets; see MAX_SHOWN."""
    if not (params or job):
        return ""
    words = [
        value[: MAX_SHOWN + 1] if key == "params" else f"{key}={value[:MAX_SHOWN]}"
        for key, value in params.items()
        if not is_secret(key)
    ]
    words += (word[: MAX_SHOWN + 1] for word in job.shown())
    return shown_text(" ".join(words), MAX_SHOWN)


NOT_PARAMS: Final = frozenset(
    {
        *("command", "subcommand", "node", "worktype"),
        *("tlsclient", "ttl", "signwork", "signature"),
        *("stdinsize", "stdinsha256", "submissionkey", "submissionfollow", RESUME_KEY),
        *(CLAIM_KEY, LABELS_KEY),
        *("placement", "placementlabels", AFTER_KEY),
        *KEYS,
    }
)
"""Keys of a submission that say how to submit; every other key is a parameter of the work."""


def parse_submission(data: JsonObject) -> Submission:
    """Read the object of a ``work submit``. Raises CommandError."""
    for key, value in data.items():
        if not isinstance(value, str):
            raise CommandError(f"submit parameters must all be strings and {key} is not")
    node, work_type = read_string(data, "node"), read_string(data, "worktype")
    if not node:
        raise CommandError("work submit requires a target node and work type")
    submission = Submission(
        node=read_node(node),
        work_type=work_type,
        params={key: value for key, value in data.items() if key not in NOT_PARAMS},
        tls_client=data.get("tlsclient", ""),
        ttl=data.get("ttl", ""),
        sign_work=read_flag(data, "signwork"),
        signature=data.get("signature", ""),
        announced=_announced(data),
        follow=data.get("submissionfollow", "") == "true",
        key=_key(data),
        claim=read_claim(data),
        labels=parse_labels(data.get(LABELS_KEY, "")),
        placement=_placement(data),
        after=parse_after(data.get(AFTER_KEY, "")),
        job=JobSettings.parse(data),
        resumes=data.get(RESUME_KEY, "") == "true",
    )
    _check_resumable(submission)
    return submission


def _check_resumable(submission: Submission) -> None:
    """Refuse to put a payload together of parts if nothing shows that the whole is right."""
    if not submission.resumes:
        return
    files, stdin = submission.job.files, submission.announced
    is_known = stdin.size is not None and stdin.sha256 and (files.sha256 or not files.size)
    if not (submission.key and is_known):
        raise CommandError(
            f"field {RESUME_KEY} needs submissionkey, stdinsize and stdinsha256, and depssha256 "
            "with depssize"
        )


def _key(data: JsonObject) -> str:
    key = read_key(data)
    if is_member_key(key):
        raise CommandError("field submissionkey has the form of a batch member's: choose another")
    return key


def _placement(data: JsonObject) -> Placement | None:
    rule, selectors = data.get("placement", ""), data.get("placementlabels", "")
    if selectors and not rule:
        raise CommandError("field placementlabels needs a field placement: any, random or least")
    return parse_placement(rule, selectors) if rule else None


def _announced(data: JsonObject) -> Input:
    """Return what the client announces of its payload; as strings, like all the rest."""
    size, sha256 = data.get("stdinsize", ""), data.get("stdinsha256", "").lower()
    if size and not (size.isascii() and size.isdigit() and len(size) <= len(str(MAX_POSITION))):
        raise CommandError(f"field stdinsize value {size} is not a number of bytes")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise CommandError("field stdinsha256 must be 64 hexadecimal digits")
    return Input(int(size) if size else None, sha256)
