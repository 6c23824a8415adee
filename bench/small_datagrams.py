"""A meshnode that can take no larger datagrams than a receptor node: ``python -m
bench.small_datagrams -c FILE``.

Between such nodes streams are sent in datagrams of 1,200 bytes. Nothing else is changed, so what is
measured with them is what a receptor peer could take. It is no setting of meshnode: nobody wishes
for smaller datagrams than their path takes.
"""

import sys

from meshnode.cli import main
from meshnode.mesh.streams import quic, quicsettings

RECEPTOR_TAKES = 1452
"""Bytes of the buffer that receptor's QUIC reads a datagram into (protocol section 7)."""

if __name__ == "__main__":
    quic.LARGE_SIZE = quicsettings.LARGE_SIZE = RECEPTOR_TAKES
    sys.exit(main())
