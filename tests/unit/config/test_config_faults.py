"""Every mistake in a file is one line that names file, line, directive, parameter and remedy."""

from pathlib import Path

import pytest

from meshnode.config import ConfigFaults, load_file
from meshnode.errors import ConfigError

LONG = "x" * 256

FAULTS = {
    # --- the file as a whole
    "empty file": (
        "",
        "{f}: the file is empty; it must have a list of directives, or a map",
    ),
    "only a document marker and a comment": (
        "---\n# nothing\n",
        "{f}: the file is empty; it must have a list of directives, or a map",
    ),
    "an empty list": ("[]\n", "{f}:1: the list of directives is empty"),
    "an empty map": ("{}\n", "{f}:1: the map of directives is empty"),
    "a map of another version": (
        "version: 3\nnode: foo\nlocal-only:\n",
        '{f}:1: version: "3" is not 2, the only one known',
    ),
    "a version that is a list": (
        "version: [2]\nnode: foo\nlocal-only:\n",
        '{f}:1: version: "" is not 2, the only one known',
    ),
    "a map of something else": (
        "services:\n  db: {image: postgres}\n",
        '{f}:1: services: unknown directive; did you mean "http-service"?',
    ),
    "an unknown name with a list, once for all": (
        "node: foo\nlocal-only:\nzzz:\n  - a: 1\n  - b: 1\n",
        "{f}:3: zzz: unknown directive; meshnode --help lists all directives",
    ),
    "an unknown parameter, in a map": (
        "node: foo\ntcp-listeners:\n  - port: 1\n  - prot: 2\n",
        '{f}:4: tcp-listener: prot: unknown parameter; did you mean "port"?',
    ),
    "a wrong value, in a map": (
        "node: foo\nTCP-peers:\n  address: a:1\n  redial: maybe\n",
        '{f}:4: tcp-peer: redial: "maybe" is neither true nor false',
    ),
    "a name given twice in a map": (
        "node: foo\ntcp-peers: [a:1]\nTCP-Peers: [b:1]\n",
        "{f}:3: TCP-Peers: is given twice; the first is on line 2; make it one list",
    ),
    "two nodes in a map": (
        "node:\n  - id: foo\n  - id: bar\nlocal-only:\n",
        "{f}:3: node: is given twice; the first is on line 2",
    ),
    "a plural of what is given once": (
        "nodes: [foo]\nlocal-only:\n",
        '{f}:1: nodes: unknown directive; did you mean "node"?',
    ),
    "an empty item in a map": (
        "node: foo\ntcp-peers:\n  - a:1\n  -\n",
        "{f}:4: tcp-peer: a list item is empty; write its parameters",
    ),
    "a list in a list, in a map": (
        "node: foo\ntcp-peers:\n  - [a:1]\n",
        "{f}:3: tcp-peer: has a list; expected: a map of its parameters",
    ),
    "a map as name of a directive, in a map": (
        "node: foo\nlocal-only:\n[a]: b\n",
        "{f}:3: the name of a directive must be text",
    ),
    "a merge key without a map": (
        "- node: foo\n- tcp-peer:\n    <<: fast\n    address: a:1\n",
        '{f}:3: "<<" takes a map, or a list of maps: write "<<: *anchor"',
    ),
    "a mistake that came by a merge key": (
        "- node: foo\n- tcp-peer: &a\n    address: a:1\n    cots: 2\n"
        "- tcp-peer:\n    <<: *a\n    address: b:1\n    cots: 3\n",
        '{f}:4: tcp-peer: cots: unknown parameter; did you mean "cost"?\n'
        '{f}:8: tcp-peer: cots: unknown parameter; did you mean "cost"?',
    ),
    "text": ("hello\n", "{f}:1: the file is text; it must have a list of directives, or a map"),
    "not YAML": (
        "- node: foo\n- tcp-listener: {port: 1\n- log-level: x\n",
        "{f}:3: not valid YAML: expected ',' or '}', but got ':', while parsing a flow mapping",
    ),
    "no indentation at all, as in copies of receptor's guide": (
        "- node:\nid: foo\n- local-only\n",
        "{f}:2: not valid YAML: this does not belong here; "
        'check the indentation, the quotes and the "- "',
    ),
    "quotes within quotes": (
        '- work-command:\n    worktype: x\n    params: "-c "echo hi""\n',
        "{f}:3: not valid YAML: this does not belong here; "
        'check the indentation, the quotes and the "- "',
    ),
    "a tab": (
        "- node:\n\tid: foo\n",
        r"{f}:2: not valid YAML: found character '\t' that cannot start any token, "
        "while scanning for the next token",
    ),
    "two nodes in two documents": (
        "- node: foo\n---\n- node: bar\n- local-only\n",
        "{f}:3: node: is given twice; the first is on line 1",
    ),
    "a mistake in the second document": (
        "- node: foo\n---\n- [\n",
        "{f}:4: not valid YAML: expected the node content, but found '<stream end>', "
        "while parsing a flow node",
    ),
    "a control character": (
        "- node: foo\n- log-level: \x07\n",
        "{f}:2: not valid YAML: it has a control character",
    ),
    "an undefined alias": (
        "- node: *here\n",
        "{f}:1: not valid YAML: found undefined alias 'here'",
    ),
    "nested without end": (
        "[" * 5000,
        "{f}: not a configuration: it is nested too deeply",
    ),
    # --- items of the list
    "an empty item": (
        "- node: foo\n-\n- local-only\n",
        '{f}:2: a list item is not a directive; write "- name:" and its parameters',
    ),
    "a list as item": (
        "- node: foo\n- [tcp-listener]\n- local-only\n",
        '{f}:2: a list item is not a directive; write "- name:" and its parameters',
    ),
    "parameters that are not indented": (
        "- node:\n  id: foo\n- local-only\n",
        "{f}:2: node: id: not indented; indent it further than node",
    ),
    "a directive without a dash": (
        "- node: foo\n  tcp-listener: 2222\n- local-only\n",
        '{f}:2: "node" and "tcp-listener" are one list item; '
        'write "- " before each directive, and indent parameters further',
    ),
    "a map as name of a directive": (
        "- node: foo\n- {[a]: b}\n- local-only\n",
        "{f}:2: the name of a directive must be text",
    ),
    "a list as name of a parameter": (
        "- node: {[a]: b}\n- local-only\n",
        "{f}:1: node: the name of a parameter must be text",
    ),
    "a list instead of parameters": (
        "- node: foo\n- tcp-listener:\n    - port: 2222\n",
        "{f}:2: tcp-listener: has a list; expected: a map of its parameters",
    ),
    # --- names
    "an unknown directive": (
        "- node: foo\n- tcp-listner: 2222\n",
        '{f}:2: tcp-listner: unknown directive; did you mean "tcp-listener"?',
    ),
    "a directive like no other": (
        "- node: foo\n- zzz\n",
        "{f}:2: zzz: unknown directive; meshnode --help lists all directives",
    ),
    "the plural of receptor's second file format": (
        "- node: foo\n- work-commands: {}\n",
        '{f}:2: work-commands: unknown directive; did you mean "work-command"?',
    ),
    "an unknown parameter": (
        "- node: foo\n- tcp-listener:\n    prot: 2222\n    port: 2222\n",
        '{f}:3: tcp-listener: prot: unknown parameter; did you mean "port"?',
    ),
    "a parameter like no other": (
        "- node: foo\n- tcp-peer:\n    address: a:1\n    zzz: 1\n",
        "{f}:4: tcp-peer: zzz: unknown parameter; "
        "tcp-peer takes address, tls, redial, cost, allowedpeers",
    ),
    "a parameter where none is taken": (
        "- node: foo\n- local-only:\n    id: 1\n",
        "{f}:3: local-only: id: unknown parameter; local-only takes local",
    ),
    "a bare value where no parameter is meant": (
        "- node: foo\n- local-only\n- control-service: /tmp/foo.sock\n",
        "{f}:3: control-service: takes no bare value; name the parameter it is for: "
        "service, filename, permissions, tcplisten, tcptls, tls",
    ),
    "an empty value that is more than empty": (
        "- node: foo\n- tcp-listener: {port: 1, tls: ' '}\n",
        '{f}:2: tcp-listener: tls: " " is no name for a TLS configuration',
    ),
    "a client's TLS where a server's is needed": (
        "- node: foo\n- control-service:\n    service: x\n    TLS: x\n"
        "- local-only\n- tls-client: {name: x}\n",
        '{f}:4: control-service: tls: "x" is a tls-client; a tls-server is needed here',
    ),
    "a name of no TLS configuration": (
        "- node: foo\n- tcp-listener:\n    port: 2222\n    tls: srv\n- tls-client: {name: srw}\n",
        '{f}:4: tcp-listener: tls: there is no tls-server "srv"; add a tls-server of that name',
    ),
    "a name of a TLS configuration of the other kind": (
        "- node: foo\n- tcp-peer: {address: a:1, tls: x}\n"
        "- tls-server: {name: x, cert: a.crt, key: a.key}\n",
        '{f}:2: tcp-peer: tls: "x" is a tls-server; a tls-client is needed here',
    ),
    "a name that is nearly that of a TLS configuration": (
        "- node: foo\n- ws-peer: {address: 'wss://a', tls: myclent}\n"
        "- tls-client: {name: myclient}\n",
        '{f}:2: ws-peer: tls: there is no tls-client "myclent"; did you mean "myclient"?',
    ),
    "two TLS configurations of one name": (
        "- node: foo\n- local-only\n- tls-client: {name: x}\n- tls-client: {name: x}\n",
        '{f}:4: tls-client: name: "x" is already used by the tls-client on line 3',
    ),
    "a certificate without its key": (
        "- node: foo\n- local-only\n- tls-client:\n    name: x\n    cert: a.crt\n",
        "{f}:5: tls-client: cert: needs key as well: a certificate is of use only with its key",
    ),
    "a key without its certificate": (
        "- node: foo\n- local-only\n- tls-client:\n    name: x\n    cert:\n    key: a.key\n",
        "{f}:6: tls-client: key: needs cert as well: a certificate is of use only with its key",
    ),
    "a pin that is no fingerprint": (
        "- node: foo\n- local-only\n- tls-client: {name: x, pinnedservercert: 'E6:9B'}\n",
        '{f}:3: tls-client: pinnedservercert: "E6:9B" is not a fingerprint: 32 bytes of SHA-256 '
        "or 64 of SHA-512, as hexadecimal digits, with or without colons",
    ),
    "a retention without a unit": (
        "- node:\n    id: foo\n    unit-retention: 30\n- local-only\n",
        '{f}:3: node: unit-retention: "30" has no unit; expected: duration such as 30s or 1h30m,'
        " at least 1s",
    ),
    # --- given twice, contradicting
    "two nodes": (
        "- node: foo\n- local-only\n- node: bar\n",
        "{f}:3: node: is given twice; the first is on line 1",
    ),
    "two log levels": (
        "- node: foo\n- local-only\n- log-level: info\n- log-level: info\n",
        "{f}:4: log-level: is given twice; the first is on line 3",
    ),
    "a parameter given twice in another case": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    Port: 1\n",
        "{f}:4: tcp-listener: port: is given twice; the first is on line 3",
    ),
    "a work type given twice": (
        "- node: foo\n- local-only\n"
        "- work-command: {worktype: echo, command: echo}\n"
        "- work-command:\n    command: cat\n    workType: echo\n",
        '{f}:6: work-command: worktype: "echo" is already used by the work-command on line 3',
    ),
    "a control service given twice": (
        "- node: foo\n- local-only\n- control-service\n- control-service\n",
        '{f}:4: control-service: service: "control" is already used by the control-service '
        "on line 3",
    ),
    "a socket used twice": (
        "- node: foo\n- local-only\n"
        "- control-service: {filename: /tmp/x}\n"
        "- control-service: {filename: /tmp/x, service: c2}\n",
        '{f}:4: control-service: filename: "/tmp/x" is already used by the control-service '
        "on line 3",
    ),
    "a port used twice": (
        "- node: foo\n- tcp-listener: 2222\n- tcp-listener: 2222\n",
        '{f}:3: tcp-listener: port: "2222" is already used by the tcp-listener on line 2',
    ),
    "a port of a control service used by a listener": (
        "- node: foo\n- tcp-listener: 2222\n- control-service:\n    tcplisten: 2222\n",
        '{f}:4: control-service: tcplisten: "*:2222" is already used by the tcp-listener on line 2',
    ),
    "a peer given twice": (
        "- node: foo\n- tcp-peer: a:1\n- tcp-peer: a:1\n",
        '{f}:3: tcp-peer: address: "a:1" is already used by the tcp-peer on line 2',
    ),
    "no links": (
        "- node: foo\n",
        "{f}: no link is configured; add a tcp-listener or tcp-peer, "
        "or local-only to run without any",
    ),
    "neither links nor alone": (
        "- node: foo\n- local-only:\n    local: false\n",
        "{f}: no link is configured; add a tcp-listener or tcp-peer, "
        "or local-only to run without any",
    ),
    # --- values
    "a missing parameter": (
        "- node: foo\n- tcp-listener:\n    cost: 2\n",
        "{f}:2: tcp-listener: port: is missing: port to listen on; 0 lets the system choose one "
        "(whole number from 0 to 65535)",
    ),
    "a parameter without a value": (
        "- node: foo\n- tcp-listener:\n    port:\n",
        "{f}:3: tcp-listener: port: has no value; expected: whole number from 0 to 65535",
    ),
    "text for a number": (
        "- node: foo\n- tcp-listener:\n    port: http\n",
        '{f}:3: tcp-listener: port: "http" is not a whole number from 0 to 65535',
    ),
    "a fraction for a whole number": (
        "- node: foo\n- tcp-listener: 1.5\n",
        '{f}:2: tcp-listener: port: "1.5" is not a whole number from 0 to 65535',
    ),
    "a list for a number": (
        "- node: foo\n- tcp-listener:\n    port: [1]\n",
        "{f}:3: tcp-listener: port: is a list; expected: whole number from 0 to 65535",
    ),
    "a map for text": (
        "- node: {id: {a: b}}\n- local-only\n",
        "{f}:1: node: id: is a map; expected: node ID",
    ),
    "a port out of range": (
        "- node: foo\n- tcp-listener: 70000\n",
        "{f}:2: tcp-listener: port: 70000 is out of range; expected: whole number from 0 to 65535",
    ),
    "a number with more digits than Python converts": (
        f"- node: foo\n- tcp-listener: {'9' * 5000}\n",
        f'{{f}}:2: tcp-listener: port: "{"9" * 60}…" is not a whole number from 0 to 65535',
    ),
    "a port that YAML would read as octal": (
        "- node: foo\n- tcp-listener: 02222\n",
        '{f}:2: tcp-listener: port: "02222" is not a whole number from 0 to 65535',
    ),
    "a cost of nothing": (
        "- node: foo\n- tcp-peer:\n    address: a:1\n    cost: 0\n",
        '{f}:4: tcp-peer: cost: "0" is not a number above 0',
    ),
    "a cost without end": (
        "- node: foo\n- tcp-peer:\n    address: a:1\n    cost: inf\n",
        '{f}:4: tcp-peer: cost: "inf" is not a number above 0',
    ),
    "a node's cost that is negative, on its own line": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    nodecost:\n      bar: 1\n      baz: -1\n",
        '{f}:6: tcp-listener: nodecost: baz: "-1" is not a number above 0',
    ),
    "a node's cost given twice": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    nodecost:\n      bar: 1\n      bar: 2\n",
        '{f}:6: tcp-listener: nodecost: "bar" is given twice',
    ),
    "one cost for all nodes": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    nodecost: 1\n",
        "{f}:4: tcp-listener: nodecost: is not a map of node ID to number above 0",
    ),
    "peers that are no node IDs": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    allowedpeers:\n      - bar\n      - b z\n",
        '{f}:6: tcp-listener: allowedpeers: "b z" cannot be a node ID: '
        "it has spaces or control characters",
    ),
    "an empty list of peers": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    allowedpeers: []\n",
        "{f}:4: tcp-listener: allowedpeers: is an empty list; leave the parameter out instead",
    ),
    "a list in text that is none": (
        "- node: foo\n- tcp-listener:\n    port: 1\n    allowedpeers: '[bar'\n",
        '{f}:4: tcp-listener: allowedpeers: "[bar" cannot be read as a list or map',
    ),
    "neither true nor false": (
        "- node: foo\n- tcp-peer:\n    address: a:1\n    redial: maybe\n",
        '{f}:4: tcp-peer: redial: "maybe" is neither true nor false',
    ),
    "an address without port": (
        "- node: foo\n- tcp-peer: localhost\n",
        '{f}:2: tcp-peer: address: "localhost" is not host:port',
    ),
    "an address whose port is no name of one": (
        "- node: foo\n- tcp-peer: localhost:htttp\n",
        '{f}:2: tcp-peer: address: "htttp" is neither a port nor the name of one',
    ),
    "an address whose port cannot be": (
        "- node: foo\n- tcp-peer: localhost:0\n",
        "{f}:2: tcp-peer: address: port 0 is out of range; ports are 1 to 65535",
    ),
    "an IPv6 address without brackets": (
        "- node: foo\n- tcp-peer: fe80::1:2222\n",
        '{f}:2: tcp-peer: address: "fe80::1:2222" is not host:port; '
        "an IPv6 address goes into brackets: [::1]:80",
    ),
    "brackets around what is no IPv6 address": (
        "- node: foo\n- tcp-peer: '[foo]:2222'\n",
        '{f}:2: tcp-peer: address: "foo" is not an IPv6 address',
    ),
    "a URL": (
        "- node: foo\n- tcp-peer: tcp://foo:2222\n",
        '{f}:2: tcp-peer: address: "tcp://foo:2222" is not host:port; '
        "an IPv6 address goes into brackets: [::1]:80",
    ),
    "a port in bindaddr": (
        "- node: foo\n- tcp-listener: {port: 1, bindaddr: '127.0.0.1:2222'}\n",
        '{f}:2: tcp-listener: bindaddr: "127.0.0.1:2222" is not an address; '
        "the port goes into its own parameter",
    ),
    "a log level that is none": (
        "- node: foo\n- log-level: verbose\n- local-only\n",
        '{f}:2: log-level: level: "verbose" is not one of error, warning, info, debug',
    ),
    "decimal permissions": (
        "- node: foo\n- local-only\n- control-service:\n    permissions: 600\n",
        "{f}:4: control-service: permissions: 600 would be a decimal number; write 0600",
    ),
    "permissions as a program writes them": (
        "- node: foo\n- local-only\n- control-service:\n    permissions: 432\n",
        "{f}:4: control-service: permissions: 432 is the decimal number of 0660; "
        "write 0660 or 0432",
    ),
    "permissions that are no octal number": (
        "- node: foo\n- local-only\n- control-service:\n    permissions: 0680\n",
        '{f}:4: control-service: permissions: "0680" is not an octal number such as 0600',
    ),
    "a service name that is too long": (
        "- node: foo\n- local-only\n- control-service:\n    service: controller\n",
        '{f}:4: control-service: service: "controller" is 10 bytes long; '
        "a service name has at most 8",
    ),
    "a service name that the mesh uses": (
        "- node: foo\n- local-only\n- control-service:\n    service: ping\n",
        '{f}:4: control-service: service: "ping" is reserved: the mesh answers it itself',
    ),
    "a socket path that is too long": (
        f"- node: foo\n- local-only\n- control-service:\n    filename: /{'x' * 107}\n",
        f'{{f}}:4: control-service: filename: "/{"x" * 59}…" is 108 bytes long; '
        "the path of a unix socket has at most 107",
    ),
    "a TCP address that is none": (
        "- node: foo\n- local-only\n- control-service:\n    tcplisten: here\n",
        '{f}:4: control-service: tcplisten: "here" is neither a port nor the name of one',
    ),
    "a node ID that is a path": (
        "- node: a/b\n- local-only\n",
        '{f}:1: node: id: "a/b" cannot be a node ID: it must be usable as a directory name',
    ),
    "a node ID that is the parent directory": (
        "- node: ..\n- local-only\n",
        '{f}:1: node: id: ".." cannot be a node ID: it must be usable as a directory name',
    ),
    "peers in one text": (
        '- node: foo\n- tcp-listener:\n    port: 1\n    allowedpeers: "bar,fish"\n',
        '{f}:4: tcp-listener: allowedpeers: "bar,fish" cannot be a node ID: it has a comma; '
        "several are a list: [a, b]",
    ),
    "a node ID with a comma": (
        "- node: a,b\n- local-only\n",
        '{f}:1: node: id: "a,b" cannot be a node ID: it has a comma; several are a list: [a, b]',
    ),
    "a home of nobody": (
        "- node:\n    id: foo\n    datadir: ~nobody-of-that-name/data\n- local-only\n",
        '{f}:3: node: datadir: "~nobody-of-that-name/data": '
        "there is no user nobody-of-that-name; write ./~",
    ),
    "a variable that is not set": (
        "- node: foo\n- local-only\n- control-service:\n    filename: ${NOT_SET_AT_ALL}/x\n",
        '{f}:4: control-service: filename: "${NOT_SET_AT_ALL}/x": '
        "the environment has no variable NOT_SET_AT_ALL",
    ),
    "a node ID that means every node": (
        "- node: LocalHost\n- local-only\n",
        '{f}:1: node: id: "LocalHost" is reserved: it means the node itself',
    ),
    "an empty node ID": (
        '- node: ""\n- local-only\n',
        "{f}:1: node: id: is empty; a node ID is needed",
    ),
    "a node ID with a line break": (
        '- node: "a\\nb"\n- local-only\n',
        r'{f}:1: node: id: "a\nb" cannot be a node ID: it has spaces or control characters',
    ),
    "a node ID that is too long": (
        f"- node: {LONG}\n- local-only\n",
        f'{{f}}:1: node: id: "{"x" * 60}…" is 256 bytes long; a node ID has at most 255',
    ),
    "a data directory without a name": (
        "- node:\n    id: foo\n    datadir: ''\n- local-only\n",
        "{f}:3: node: datadir: is empty; expected: directory",
    ),
    "a time-out without a unit": (
        "- node:\n    id: foo\n    maxIdleConnectionTimeout: 30\n- local-only\n",
        '{f}:3: node: maxidleconnectiontimeout: "30" has no unit; '
        "expected: duration such as 30s or 1h30m, at least 21s",
    ),
    "a time-out that is too short": (
        "- node:\n    id: foo\n    maxidleconnectiontimeout: 20s\n- local-only\n",
        '{f}:3: node: maxidleconnectiontimeout: "20s" is too short; it must be at least 21s',
    ),
    "a time-out that is none": (
        "- node:\n    id: foo\n    maxidleconnectiontimeout: soon\n- local-only\n",
        '{f}:3: node: maxidleconnectiontimeout: "soon" is not a '
        "duration such as 30s or 1h30m, at least 21s",
    ),
    "a work type that the mesh uses": (
        "- node: foo\n- local-only\n- work-command:\n    worktype: remote\n    command: x\n",
        '{f}:4: work-command: worktype: "remote" is reserved: '
        "it is the type of units that run on other nodes",
    ),
    "a work type with a space": (
        "- node: foo\n- local-only\n- work-command:\n    worktype: a b\n    command: x\n",
        '{f}:4: work-command: worktype: "a b" cannot be a work type: '
        "it has spaces or control characters",
    ),
    "an empty command": (
        "- node: foo\n- local-only\n- work-command:\n    worktype: x\n    command: ''\n",
        "{f}:5: work-command: command: is empty; expected: text",
    ),
    "params with an open quote": (
        "- node: foo\n- local-only\n"
        "- work-command:\n    worktype: x\n    command: bash\n    params: -c 'echo\n",
        "{f}:6: work-command: params: cannot be split into words: no closing quotation",
    ),
    "params with a NUL": (
        "- node: foo\n- local-only\n"
        '- work-command:\n    worktype: x\n    command: bash\n    params: "a\\0b"\n',
        "{f}:6: work-command: params: has a NUL character, which no program can be given",
    ),
    "a value of an own type": (
        "- node: !!binary Zm9v\n- local-only\n",
        '{f}:1: node: id: has the tag "tag:yaml.org,2002:binary"; expected: node ID',
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_is_told_in_one_line(name: str, tmp_path: Path):
    text, expected = FAULTS[name]
    file = tmp_path / "foo.yml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_file(str(file))
    assert str(caught.value) == expected.replace("{f}", str(file))


def test_all_mistakes_are_told_at_once_in_the_order_of_lines(tmp_path: Path):
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node:\n    idd: foo\n"
        '- work-command: {worktype: a, command: b, params: "\'"}\n'
        "- nose: foo\n"
        "- tcp-listener:\n    port: x\n    cost: y\n    tlz: z\n"
        "- node: bar\n- node: baz\n"
    )
    with pytest.raises(ConfigFaults) as caught:
        load_file(str(file))
    assert str(caught.value).splitlines() == [
        f'{file}:2: node: idd: unknown parameter; did you mean "id"?',
        f"{file}:3: work-command: params: cannot be split into words: no closing quotation",
        f'{file}:4: nose: unknown directive; did you mean "node"?',
        f'{file}:6: tcp-listener: port: "x" is not a whole number from 0 to 65535',
        f'{file}:7: tcp-listener: cost: "y" is not a number above 0',
        f'{file}:8: tcp-listener: tlz: unknown parameter; did you mean "tls"?',
        f"{file}:10: node: is given twice; the first is on line 9",
    ]


def test_a_missing_file_is_told():
    with pytest.raises(ConfigError, match=r"^no/such\.yml: cannot be read: no such file"):
        load_file("no/such.yml")


def test_a_directory_is_not_a_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r": cannot be read: is a directory$"):
        load_file(str(tmp_path))


def test_a_path_with_a_nul_is_told_in_one_printable_line():
    with pytest.raises(ConfigError, match=r"^a\\x00b: cannot be read: "):
        load_file("a\0b")


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path):
    file = tmp_path / "latin.yml"
    file.write_bytes(b"- node: foo\n- work-command: \xe4\n")
    with pytest.raises(ConfigError, match=r":2: not valid YAML: it is not UTF-8 text$"):
        load_file(str(file))


def test_a_file_that_never_ends_is_refused():
    with pytest.raises(ConfigError, match=r"^/dev/zero: not a configuration: it has more than"):
        load_file("/dev/zero")
