"""What long computations share: how much fits the memory, parts, progress, and what an interrupt leaves."""
