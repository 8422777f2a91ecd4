"""A compact training loop: AdamW, schedules, clipping, penalties, evaluation, exact resume, data parallel.

    config = TrainingConfig(steps=1000, batch=32, learning_rate=1e-3, warmup=100)
    trainer = Trainer(model, config, TextBatches(ids, context=128, batch=32), penalties=[(0.1, penalty)])
    trainer.run(log=log)

Inside `with join_processes():` the processes that `torchrun` started share each batch.
"""

from nslab.training.parallel import join_processes, process_count, process_rank
from nslab.training.settings import TrainingConfig, learning_rate
from nslab.training.text import TextBatches, cross_entropy, text_loss
from nslab.training.trainer import Diverged, Trainer

__all__ = [
    "Diverged",
    "TextBatches",
    "Trainer",
    "TrainingConfig",
    "cross_entropy",
    "join_processes",
    "learning_rate",
    "process_count",
    "process_rank",
    "text_loss",
]
