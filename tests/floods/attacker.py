"""The attacker's process: ``python -m floods.attacker '{"name": …, "target": …, …}'``."""

import json
import resource
import sys
from dataclasses import asdict

from floods.attack import Limit, Target
from floods.catalogue import FLOODS


def main() -> None:
    """Run one attack for its time, and print what it came to."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    order = json.loads(sys.argv[1])
    limit = Limit(order["seconds"], order["most"])
    sent = FLOODS[order["name"]].attack(Target(**order["target"]), limit)
    print(json.dumps(asdict(sent)))


if __name__ == "__main__":
    main()
