"""The program that starts commands and watches over them.

One small process per node (:mod:`.main`) forks a supervisor (:mod:`.supervisor`) for each unit. Its
memory is shared with every supervisor that it forks, so the package imports almost nothing: no
trio, dataclasses, typing or logging, and nothing of the rest of meshnode (a lint contract).
"""
