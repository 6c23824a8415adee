"""All fuzz targets, by name."""

from fuzz.answers import AnswersTarget
from fuzz.certificates import Certificates
from fuzz.configuration import RulesTarget, Yaml
from fuzz.control import Control
from fuzz.engine import Target
from fuzz.farwork import Farwork
from fuzz.framing import Framing
from fuzz.handshakes import Handshakes
from fuzz.messages import Adverts, Data, Notices, Routing
from fuzz.quic import Quic
from fuzz.tokens import Tokens
from fuzz.unitfiles import UnitFiles

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Routing(),
        Notices(),
        Adverts(),
        Data(),
        Quic(),
        AnswersTarget(),
        Farwork(),
        Control(),
        UnitFiles(),
        Framing(),
        Certificates(),
        Handshakes(),
        Tokens(),
        Yaml(),
        RulesTarget(),
    )
}
