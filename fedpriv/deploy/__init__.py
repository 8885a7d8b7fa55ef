"""Real machines: a server behind TLS, nodes that keep their data, and what each checks of the other."""
