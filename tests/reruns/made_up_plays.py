"""Three plays of a few words, and a char-gpt small enough to learn them in a test."""

import torch

from nslab.reruns import char_gpt
from nslab.training import TrainingConfig
from nslab.transformer import Transformer, TransformerConfig
from nslab.zoo import LanguageModel, adopt_characters

PLAYS = {
    "Ay": "to be or not to be " * 40,
    "Bee": "that is the question " * 40,
    "Sea": "that is the question " * 20 + "to be or not to be " * 20,
}
ALPHABET = "".join(sorted(set("".join(PLAYS.values()) + "\n")))


def small_char_gpt(steps: int, learning_rate: float) -> char_gpt.Config:
    return char_gpt.Config(
        seeds=1,
        model=TransformerConfig(vocabulary=len(ALPHABET), context=16, width=16, layers=1, heads=2),
        training=TrainingConfig(steps=steps, batch=8, learning_rate=learning_rate, evaluate_every=30),
        held_out=("Sea",),
        windows=16,
        save_every=30,
    )


def untrained(config: char_gpt.Config) -> LanguageModel:
    """What stands beside a twin in the place of the package's char-gpt."""
    return adopt_characters(Transformer(config.model, generator=torch.Generator().manual_seed(9)), ALPHABET)
