"""What the OpenAPI document says of a node holds, whatever is sent to it: schemathesis tries.

It runs as a process of its own: as a plugin it would be loaded for every other test as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Cluster, bash, free_port
from webclient import WebClient

EXAMPLES = os.environ.get("API_EXAMPLES", "")
"""How many requests are tried of each kind, each time other ones: ``make api-fuzz``."""

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
    "negative_data_rejection",
)
"""Not that whatever fits the document is accepted: a node knows only some types of work."""


@pytest.mark.timeout(3600)
def test_no_request_has_the_node_fail_or_answer_what_is_not_described(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        port = free_port()
        typed = {
            "command": "echo",
            "params": "{n}",
            "arguments": [{"name": "n", "type": "int"}],
        }
        work = {"cat": bash("cat"), "typed": typed}
        cluster.node("foo", work=work, more=[{"http-service": {"port": port}}])
        client = WebClient(port)
        client.submit({"type": "cat", "payload": "hello"})
        client.post("/batches", {"array": "1-3", "job": {"type": "cat"}})
        phases = "examples,coverage,fuzzing" if EXAMPLES else "examples,coverage"
        amount = ["-n", EXAMPLES] if EXAMPLES else ["--generation-deterministic"]
        done = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "run"),
                f"http://127.0.0.1:{port}/api/v1/openapi.json",
                *amount,
                # What waits until a unit ends may never end: test_http_units has these.
                *("--exclude-path-regex", "/(events|wait|stop|log|results)$"),
                *("--checks", ",".join(CHECKS), "--phases", phases),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Tested: " in done.stdout
        assert client.ask("/api/v1/status").json["NodeID"] == "foo"
    finally:
        cluster.close()
