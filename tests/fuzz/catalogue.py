"""All fuzz targets, by name."""

from fuzz.control import Control
from fuzz.engine import Target
from fuzz.farwork import Farwork
from fuzz.messages import Adverts, Data, Notices, Routing
from fuzz.quic import Quic

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (Routing(), Notices(), Adverts(), Data(), Quic(), Farwork(), Control())
}
