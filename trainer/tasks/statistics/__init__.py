"""The statistics task: `Statistics`, and its labels computed on the device."""

from trainer.tasks.statistics.task import Statistics

__all__ = ["Statistics"]
