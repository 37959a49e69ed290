"""How far predictions lie apart, in nats, and how much of that the Fisher information at one of them explains."""
