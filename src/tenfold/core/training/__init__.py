from tenfold.core.training.config import TrainingConfig
from tenfold.core.training.loop import TrainingResult, train

__all__ = ["TrainingConfig", "TrainingResult", "train"]
