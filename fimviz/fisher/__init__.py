"""The spectrum of the input-space Fisher information of a batch."""
