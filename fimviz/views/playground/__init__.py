"""A network in the page: draw for it."""
