"""The hardware: the machine that runs a network, its RTL, and what it costs; ``export`` writes it out."""
