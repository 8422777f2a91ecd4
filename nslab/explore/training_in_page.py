"""A network that is trained in the page: modular addition, memorised within steps and understood much later.

`compute` is the Python twin of ``assets/live-training.js``. *Ours*, as is the figure; the network is of the kind of
Gromov (2023, arXiv:2301.02679), a square between two linear maps, here trained on the cross-entropy with AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence

from nslab.explore.modules import Module, module
from nslab.explore.pair_training import PairTraining, energy_stability

__all__ = ["compute", "live_training"]

DECAYS = (0.0, 0.1, 0.3, 1.0, 2.0, 3.0)
RATES = (0.001, 0.003, 0.01, 0.03)
SEEDS = 21  # 0 to 20
SPLITS = ("random", "unordered")
LARGEST = 32  # modulus; a step costs its cube times the width
WIDEST = 256
DISCOVERY = (
    "With decay 1 all train pairs are right within 50 steps, and of the test pairs fewer than by chance: the network "
    "has memorised. Half of the test pairs come right near step 200, 99 % near step 500, after four to six e-foldings "
    "of decay. Take the decay away: train accuracy 1, and test accuracy no better than chance, as long as you wait. "
    "Another decay moves the step at which it happens; against e-foldings the curves of decays from 0.3 to 2 nearly "
    "coincide. The learning rate has its own say: at 0.003 it takes less than three e-foldings to 99 %, at 0.03 "
    "more than ten. The noise stability, meanwhile, waits below the task’s own while the network only memorises: it is "
    "unsure of the pairs it has not seen, and some of its energy lies on one operand alone, where the task has none. "
    "Divide by the value at keep 1, and the stability comes down to the task’s from above."
)


def compute(state: dict) -> dict:
    """What a network is after some steps of training.

    Args:
        state: ``modulus``, ``width``, ``fraction``, ``split``, ``learning_rate``, ``weight_decay``, ``seed`` (as in
            `PairTraining`), ``steps`` and ``keep``.

    Returns:
        ``step`` and ``e_foldings`` (step times learning rate times decay); ``train_loss`` in nats, ``train_accuracy``,
        ``test_accuracy``; ``energies`` of the softmax (constant, first operand, second, both); ``trained`` and
        ``right``, 1 or 0 for each pair, row a p + b; ``stability`` E Σ_c f_c(X) f_c(Y) of the softmax, where each
        operand of Y is X's with probability ``keep`` and else drawn anew, and ``target``, that of the right answer,
        1/p + keep² (1 − 1/p).
    """
    training = PairTraining(state)
    for _ in range(state["steps"]):
        training.step()
    found = training.measure()
    p, keep = state["modulus"], state["keep"]
    target = energy_stability([1 / p, 0.0, 0.0, 1 - 1 / p], keep)
    return {**found, "stability": energy_stability(found["energies"], keep), "target": target}


def live_training(
    *,
    modulus: int = 23,
    width: int = 128,
    fraction: float = 0.6,
    split: str = "random",
    weight_decay: float | int = 1.0,
    learning_rate: float = 0.01,
    seed: int = 1,
    keep: float | int = 0.7,
    decays: Sequence[float | int] = DECAYS,
    rates: Sequence[float | int] = RATES,
    label: str = "Train a network in the page",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader trains a quadratic network on (a + b) mod p and sees it memorise, then generalise.

    Args:
        modulus: p, from 3 to 32.
        width: neurons, 8 to 256; a step of p = 23 and 128 takes about 3 ms of a page.
        fraction: of the p² pairs to train on, in (0, 1); both sides get a pair.
        split: at the start: "random", or "unordered", which never parts (a, b) from (b, a).
        weight_decay: at the start, one of ``decays``.
        learning_rate: at the start, one of ``rates``.
        seed: of weights and split at the start, from 0 to 20.
        keep: at the start, the probability that an operand stays, in [0, 1]; the slider moves in twentieths.
        decays: what the slider of the decay offers, increasing, from 0 to 10.
        rates: what the slider of the learning rate offers, increasing, above 0 and at most 0.1.
        label: accessible name.
        alt: the figure in a sentence; by default its task and its start.
        discovery: what to find out.

    Raises:
        ValueError: if a number is outside its range, or a start is not among the values of its slider.

    >>> figure = live_training(weight_decay=0.3)
    >>> figure.twin({**figure.state, "steps": 60})["train_accuracy"]
    1.0
    """
    levels, speeds = tuple(map(float, decays)), tuple(map(float, rates))
    for name, values, most in [("decays", levels, 10), ("rates", speeds, 0.1)]:
        if list(values) != sorted({each for each in values if 0 <= each <= most}) or not values:
            raise ValueError(f"{name}={values}: give numbers from 0 to {most}, each larger than the last.")
    if speeds[0] == 0:
        raise ValueError(f"rates={speeds}: a learning rate of 0 learns nothing; start above 0.")
    for name, value, least, most in [("modulus", modulus, 3, LARGEST), ("width", width, 8, WIDEST)]:
        if not least <= value <= most:
            raise ValueError(
                f"{name}={value}: give {least} to {most}; larger networks are too slow for a page: use nslab.training."
            )
    count = int(fraction * modulus**2) if 0 < fraction < 1 else 0
    if not 0 < count < modulus**2:
        raise ValueError(
            f"fraction={fraction} of {modulus**2} pairs leaves none on one side: give a number well inside (0, 1)."
        )
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: choose from {', '.join(SPLITS)}.")
    if weight_decay not in levels:
        raise ValueError(f"weight_decay={weight_decay} is not among decays={levels}: add it, or start from one.")
    if learning_rate not in speeds:
        raise ValueError(f"learning_rate={learning_rate} is not among rates={speeds}: add it, or start from one.")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed={seed} is not on its slider: give a whole number from 0 to {SEEDS - 1}.")
    if not 0 <= keep <= 1 or abs(20 * keep - round(20 * keep)) > 1e-9:
        raise ValueError(f"keep={keep} is no step of its slider: give a whole number of twentieths from 0 to 1.")
    state = {
        "modulus": modulus,
        "width": width,
        "fraction": fraction,
        "split": split,
        "weight_decay": float(weight_decay),
        "learning_rate": float(learning_rate),
        "seed": seed,
        "seeds": SEEDS,
        "keep": float(keep),
        "decays": list(levels),
        "rates": list(speeds),
        "steps": 0,
    }
    alt = alt or (
        f"A network of {width} squared neurons learns (a + b) mod {modulus} from {count} of the {modulus**2} pairs, "
        f"with learning rate {learning_rate:g} and weight decay {weight_decay:g}. Beside the accuracies stand its "
        f"noise stability and the picture of all pairs, right or wrong. Nothing is trained yet."
    )
    return module(
        ["seeded-gaussians.js", "pair-training.js", "training-plots.js", "live-training.js"],
        twin=compute,
        state=state,
        cases=_cases(state),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(state: dict) -> list[dict]:
    """States on which page and twin are compared: both splits, every decay and rate, none to 200 steps."""
    cases = [state, {**state, "steps": 200}, {**state, "split": "unordered", "steps": 20, "keep": 1.0}]
    for k, decay in enumerate(state["decays"]):
        rate, split = state["rates"][k % len(state["rates"])], SPLITS[k % 2]
        cases.append({**state, "weight_decay": decay, "learning_rate": rate, "split": split, "seed": k, "steps": 8 * k})
    for k, rate in enumerate(state["rates"]):
        size = {"modulus": (3, 8, 13, 31)[k % 4], "width": (8, 40)[k % 2], "fraction": (0.34, 0.5, 0.8)[k % 3]}
        cases.append({**state, **size, "learning_rate": rate, "split": SPLITS[k % 2], "steps": 5 + k, "keep": k / 4})
    return cases
