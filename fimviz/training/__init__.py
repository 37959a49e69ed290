"""What training does to the Fisher information: a monitor for any loop, its log, and the charts."""

from fimviz.training.history import TrainingHistory, read_log
from fimviz.training.monitor import FisherMonitor

__all__ = ["FisherMonitor", "TrainingHistory", "read_log"]
