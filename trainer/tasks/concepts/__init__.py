"""The task `concepts`: static and dynamic concepts."""

from trainer.tasks.concepts.task import Concepts, ConceptsOptions

__all__ = ["Concepts", "ConceptsOptions"]
