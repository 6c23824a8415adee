"""What a node that starts says, and when."""

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
