"""How a command speaks and ends: help, standard streams, signals, one line for what went wrong."""
