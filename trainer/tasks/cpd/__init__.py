"""Cross pair discrimination of videos and captions."""

from trainer.tasks.cpd.task import Cpd, CpdOptions

__all__ = ["Cpd", "CpdOptions"]
