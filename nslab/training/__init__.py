"""Training: one network at a time with `Trainer`, or many small ones as one program with `EnsembleTrainer`.

    config = TrainingConfig(steps=1000, batch=32, learning_rate=1e-3, warmup=100)
    trainer = Trainer(model, config, TextBatches(ids, context=128, batch=32), penalties=[(0.1, penalty)])
    trainer.run(log=log)

Inside `with join_processes():` the processes that `torchrun` started share each batch.

    task = ModularArithmetic(31)
    network = QuadraticNetwork(task, width=128)
    splits = [split_pairs(task, 0.5, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    members = stack_members([network.initial(torch.Generator().manual_seed(100 + seed)) for seed in range(5)])
    x = torch.stack([task.pairs[split.train] for split in splits])      # (members, rows, 2)
    y = torch.stack([task.labels[split.train] for split in splits])     # (members, rows)
    config = EnsembleConfig(steps=700, learning_rate=1e-2, weight_decay=1.0)
    trainer = EnsembleTrainer(network, members, config, x, y, measure=PairMeasures(task, splits))
    trainer.run(log=log, save=log.save)
    trainer.generalised_at                                              # steps, one a member

Penalties of either trainer, such as the noise-stability regulariser and what it is to be held against:

    gamma, penalty = stability_regulariser(0.75, rho=0.25, vocabulary=31)
    Trainer(..., penalties=[(gamma, penalty)])
    EnsembleTrainer(..., penalties=[(gamma, each_member(penalty))])

What learned noise adds to a loss is `noise_regulariser(beta)`. Batches too large for memory are for
`AccumulatingTrainer`. A classifier is a `LastTokenClassifier` on a trained network, with `EpochBatches` of `encoded`
texts; `nslab.training.comparisons` says what its answers are worth beside another's.

`nslab.training.acceleration.acceleration` says by how much the one training is faster than the other, over paired
seeds; `nslab.training.calibration.calibration`, how often a network is right when it says how sure it is.

An ensemble's members differ in seed, data, learning rate, decay and the weights of penalties. The measures see them at
checkpoints; `lead_lag` and its kin say what happened when. What a network of your own needs says
`pair_networks.EnsembleNetwork`, with an example.
"""

from nslab.training.acceleration import Acceleration
from nslab.training.accumulation import AccumulatingTrainer
from nslab.training.classification import EpochBatches, Examples, LastTokenClassifier, encoded
from nslab.training.control_penalties import EmbeddingNoisePenalty, L1Penalty, LabelSmoothingPenalty
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig, cross_entropy_each, hinge_each
from nslab.training.milestones import (
    Lead,
    LeadLag,
    decay_clock,
    first_passage,
    halfway,
    last_passage,
    lead,
    lead_lag,
)
from nslab.training.noise_kl import NoiseKL, noise_regulariser
from nslab.training.pair_measures import PairMeasures
from nslab.training.pair_networks import EnsembleNetwork, Look, QuadraticNetwork, stack_members, take_member
from nslab.training.parallel import join_processes, process_count, process_rank
from nslab.training.parity_measures import ParityMeasures
from nslab.training.parity_networks import ReluNetwork
from nslab.training.penalties import (
    ConfidencePenalty,
    RowPenalty,
    SensitivityPenalty,
    StabilityPenalty,
    each_member,
    stability_regulariser,
)
from nslab.training.settings import TrainingConfig, learning_rate
from nslab.training.table_transformer import TokenTableTransformer
from nslab.training.text import TextBatches, cross_entropy, text_loss
from nslab.training.trainer import Diverged, Trainer

__all__ = [
    "Acceleration",
    "AccumulatingTrainer",
    "ConfidencePenalty",
    "Diverged",
    "EmbeddingNoisePenalty",
    "EnsembleConfig",
    "EnsembleNetwork",
    "EnsembleTrainer",
    "EpochBatches",
    "Examples",
    "L1Penalty",
    "LabelSmoothingPenalty",
    "LastTokenClassifier",
    "Lead",
    "LeadLag",
    "Look",
    "NoiseKL",
    "PairMeasures",
    "ParityMeasures",
    "QuadraticNetwork",
    "ReluNetwork",
    "RowPenalty",
    "SensitivityPenalty",
    "StabilityPenalty",
    "TextBatches",
    "TokenTableTransformer",
    "Trainer",
    "TrainingConfig",
    "cross_entropy",
    "cross_entropy_each",
    "decay_clock",
    "each_member",
    "encoded",
    "first_passage",
    "halfway",
    "hinge_each",
    "join_processes",
    "last_passage",
    "lead",
    "lead_lag",
    "learning_rate",
    "noise_regulariser",
    "process_count",
    "process_rank",
    "stability_regulariser",
    "stack_members",
    "take_member",
    "text_loss",
]
