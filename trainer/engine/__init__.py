"""Training: one code path for a CPU, a GPU, and many processes."""

from trainer.engine.run import RunResult, train

__all__ = ["RunResult", "train"]
