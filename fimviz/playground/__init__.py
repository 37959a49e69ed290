"""A network that people can draw for: in a page, without torch."""

from fimviz.playground.draw import Playground, playground

__all__ = ["Playground", "playground"]
