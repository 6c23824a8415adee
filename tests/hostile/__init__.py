"""What an enemy can send: a peer, a client and a runner that keep to no protocol.

Nothing here is checked before it is sent. ``forge`` makes messages, ``peer`` opens links and holds
them, ``dialer`` speaks QUIC, ``runner`` is a node that lies about the work which it was given.
"""
