"""Where is a model fragile? Norms of a batch, a gallery and one sample in detail, linked."""
