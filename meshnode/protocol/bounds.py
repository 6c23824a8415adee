"""How much others may say at a time: above what any receptor node sends (docs/links.md)."""

from meshnode.protocol.fields import Text

NODE_ID = Text(255, least=1)
"""A node ID is also a directory name, and no file system allows more."""

UPDATE_ID = Text(64, least=1)
"""Receptor's are 8 letters and digits; they are remembered for an hour, thousands of them."""

SERVICE_LENGTH = 8
"""Bytes of a service name on the wire, right-padded with NUL."""

SERVICE = Text(SERVICE_LENGTH, least=1)

MAX_ADVERTISEMENT = 16 * 1024
"""Bytes of the longest advertisement, which every node keeps and passes on: hundreds of work types
fit."""

TIME = Text(40)
"""RFC 3339 with nanoseconds and an offset has 35 bytes."""

TAG_NAME, TAG_VALUE = Text(255), Text(4096)
"""Receptor's values are addresses, networks and paths, and Linux allows paths of 4,096 bytes."""

WORK_TYPE = Text(255)
"""As long as our own configuration allows."""

MAX_NOTICE = 8 * 1024
"""Bytes of the longest notice that a message did not arrive: two node IDs of the greatest length,
all characters escaped, and the rest."""

PROBLEM = Text(256)
"""Receptor's have 15 to 19 bytes."""

UNSIGNED_64 = 1 << 64
"""Epochs and sequences are below this (Go's uint64)."""

UNSIGNED_8 = 1 << 8
"""Kinds of connections are below this (Go's byte)."""
