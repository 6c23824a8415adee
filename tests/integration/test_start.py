"""What a node that starts says, and when."""

import json

from harness import Cluster, free_port


def test_a_node_is_ready_when_all_that_it_listens_on_listens(cluster: Cluster) -> None:
    ports = [free_port() for _ in range(5)]
    links = [
        {kind: {"port": port, "bindaddr": "127.0.0.1"}}
        for kind, port in zip(("tcp-listener", "ws-listener", "udp-listener"), ports, strict=False)
    ]
    foo = cluster.node(
        "foo",
        more=[
            *links,
            {"control-service": {"service": "other", "tcplisten": f"127.0.0.1:{ports[3]}"}},
            {
                "tcp-server": {
                    "port": ports[4],
                    "bindaddr": "127.0.0.1",
                    "remotenode": "foo",
                    "remoteservice": "x",
                }
            },
        ],
        level="info",
    )
    foo.wait_log("is ready")
    before, _, after = foo.log.read_text().partition("is ready")
    # Three of links, a unix socket, a TCP port and two services of control, one of a service.
    assert before.count(": listening") == 8
    assert "listening" not in after


def test_a_log_as_json_has_an_object_in_each_line(cluster: Cluster) -> None:
    """The first line of a start is one already."""
    foo = cluster.node("foo", start=False, work={"fail": "exit 7"})
    text = foo.config.read_text().replace("level: debug", "{level: debug, format: json}")
    foo.config.write_text(text.replace("log-level:\n", "log-level:"))
    foo.start()
    unit = foo.submit("fail", "--no-payload")
    foo.wait_unit(unit, "Failed")
    foo.stop()
    events = [json.loads(line) for line in foo.log.read_text().splitlines()]
    assert {"node", "control", "session", "unit"} <= {event["kind"] for event in events}
    first = next(event for event in events if event["subject"] == f"unit {unit}")
    assert (first["name"], first["text"][:7]) == (unit, "created")
    assert all(event["level"] in {"debug", "info", "warning"} for event in events)
    # A session may end after that.
    assert "stopping: SIGTERM" in [event["text"] for event in events[-3:]]
