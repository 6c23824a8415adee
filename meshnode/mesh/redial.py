"""When to dial again (reference section 1 says what receptor does; ours begins sooner)."""

import math
import random

REDIAL_FIRST = 0.5
"""Seconds to the first new attempt. Receptor waits 5 s; a peer that was only restarted is back
before that, and one small packet twice a second for the first seconds costs nobody anything."""

REDIAL_MOST = 20.0
"""Seconds between attempts at most, as receptor's."""

REDIAL_GROWTH = 1.5
"""Growth from one pause to the next, as receptor's."""

REDIAL_JITTER = 0.2
"""Share by which a pause is shortened at random, so that the dialers of a node that was restarted
do not all come at the same moment."""

STEADY = 30.0
"""Seconds that a link must have been up for its peer to count as found: three routing updates, by
which each end has said all that it may be refused for. One that ends before is dialed again as one
that never came up, so that two nodes that disagree do not meet twice a second for ever."""

_MOST_STEPS = math.ceil(math.log(REDIAL_MOST / REDIAL_FIRST, REDIAL_GROWTH))


def redial_delay(failures: int) -> float:
    """Return the seconds to wait after ``failures`` failures in a row (at least 1), jittered."""
    steps = min(failures - 1, _MOST_STEPS)
    pause = min(REDIAL_FIRST * REDIAL_GROWTH**steps, REDIAL_MOST)
    return pause * (1 - REDIAL_JITTER * random.random())
