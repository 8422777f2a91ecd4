"""Standard Gaussians that a seed and a place determine, the same to the bit of a seed in Python and in the page.

mulberry32 is a counter with a good mixer: any place of a stream can be looked up without drawing those before it. It
takes ten lines in either language; its twin is ``assets/seeded-gaussians.js``.
"""

from __future__ import annotations

import math

import numpy as np

STRIDE = np.uint32(0x6D2B79F5)  # of mulberry32's counter


def gaussian_pairs(seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard Gaussians for every place (uint32) in the stream of this seed (Box and Muller)."""
    start = _mixed(np.array([seed], dtype=np.uint32))
    one, two = ((_mixed(start + (2 * index + np.uint32(k)) * STRIDE) + 0.5) / 2**32 for k in (0, 1))
    radius, angle = np.sqrt(-2 * np.log(one)), 2 * math.pi * two
    return radius * np.cos(angle), radius * np.sin(angle)


def _mixed(words: np.ndarray) -> np.ndarray:
    """mulberry32's mixer, from its counter to 32 random bits; unsigned arithmetic wraps around as it should."""
    t = (words ^ (words >> np.uint32(15))) * (words | np.uint32(1))
    t = t ^ (t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61)))
    return t ^ (t >> np.uint32(14))
