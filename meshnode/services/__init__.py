"""What runs over the mesh besides control: proxies of sockets, commands on a terminal, IP."""
