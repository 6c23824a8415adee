"""The recorded answers of a receptor node to ``work ...``, from our units."""

import json
import re
from pathlib import Path

import pytest

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "control-vectors.json").read_text())[
    "vectors"
]
EXACT = [v for v in VECTORS if v["match"] == "exact" and "work" in v["send"]]

OURS = {
    "work results a xyz\n": (
        'ERROR: error converting start position to integer: "xyz" is not a number\n'
    )
}
"""Where receptor's text holds names of Go's library."""

CREATED_LATER = [v for v in VECTORS if "work submit nosuchnode" in v["send"]]


@pytest.mark.parametrize("vector", EXACT, ids=lambda v: v["send"])
async def test_refusals_are_receptors_to_the_byte(foo, vector):
    async with foo.running():
        lines = await foo.talk(vector["send"].rstrip("\n"))
        expected = OURS.get(vector["send"], vector["reply"])
        assert "".join(f"{line}\n" for line in lines) == expected
        assert foo.units.all() == ()
        assert foo.left() == []


async def test_a_submission_that_waits_answers_and_shows_what_receptors_does(foo):
    async with foo.running():
        lines = await foo.talk("work submit nosuchnode echo")
        (vector,) = CREATED_LATER
        unit_id = json.loads(lines[1])["unitid"]
        shown = "".join(f"{line}\n" for line in lines)
        assert shown.replace(unit_id, "*") == re.sub("3BBRPDL2", "*", vector["reply"])
        (line,) = await foo.talk(f"work status {unit_id}")
        reply = json.loads(line)
        (recorded,) = [v for v in VECTORS if v["send"] == "work status 3BBRPDL2\n"]
        expected = json.loads(recorded["reply"])
        # receptor does not say what it waits for.
        assert expected["Detail"] == "Starting Worker"
        expected["Detail"] = reply["Waiting"]
        assert reply["Waiting"].startswith("waiting for node nosuchnode: no route since ")
        assert {key: reply[key] for key in expected} == expected
