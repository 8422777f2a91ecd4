"""How the positions of a sequence listen to one another: multi-head attention, and what it is made of.

    from nslab.attention import VARIANTS, Attention, SymmetricAttention, attend
    heads = attend(query, key, value, causal=True)

`standard` is the attention of every network of the book that is not said to have another one. `symmetric` ties queries
and keys, with pairwise coefficients, a term of low rank or learned noise if the `settings` say so.
"""

from nslab.attention.biased import attend_with_bias, attend_with_bias_explicitly
from nslab.attention.kl import gaussian_kl, noise_kl
from nslab.attention.noise_families import LearnedNoise
from nslab.attention.preferences import can_be_symmetric, mutual_preference, patterns
from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings, variant_name
from nslab.attention.standard import EXPLICIT, LOOKS, Attended, Attention, Rotary, attend, attend_explicitly
from nslab.attention.symmetric import SymmetricAttention

__all__ = [
    "EXPLICIT",
    "LOOKS",
    "VARIANTS",
    "Attended",
    "Attention",
    "LearnedNoise",
    "NoiseSettings",
    "Rotary",
    "ScoreSettings",
    "SymmetricAttention",
    "attend",
    "attend_explicitly",
    "attend_with_bias",
    "attend_with_bias_explicitly",
    "can_be_symmetric",
    "gaussian_kl",
    "mutual_preference",
    "noise_kl",
    "patterns",
    "variant_name",
]
