"""Guaranteed upper bounds on a network's sensitivity to its pixels, from its weights or at given inputs."""

from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Step
from fimviz.bounds.network import Layer, LocalBound, NetworkBound, local_bound, network_bound
from fimviz.bounds.rules import rule

__all__ = [
    "Flow",
    "Layer",
    "LocalBound",
    "NetworkBound",
    "NoBoundError",
    "NoRuleError",
    "Step",
    "local_bound",
    "network_bound",
    "rule",
]
