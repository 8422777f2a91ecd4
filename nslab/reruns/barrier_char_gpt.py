"""barrier-char-gpt: the twin of char-gpt whose heads are kept from degeneracy by a hinge on their determinants.

Shape, plays, seed and batches are those of char-gpt at the same preset; only the penalty is added, on the real heads of
every layer. The twin and the char-gpt of this package then stand side by side on the same held-out windows: loss,
calibration, noise stability, losses on disturbed inputs, margins of their heads, and the tokens nearest to degeneracy.
The char-gpt of this package is that of "laptop": at "full" the two differ in length and batches, too. The twin's
weights are kept in half precision.

The weight is the pilot's for this shape of barrier. The hinge is taken at one position of every window of a batch,
drawn anew at each step, an unbiased estimate of the mean over all. A step then costs 1.27 times a plain one; two
positions cost 1.3 times as much, four 1.45 times.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nslab.barrier.head_barrier import head_regulariser
from nslab.barrier.penalty_shapes import Kind
from nslab.barrier.real_heads import stages
from nslab.records import RunLog
from nslab.reruns import _barrier_measures as measuring
from nslab.reruns import char_gpt, stable_char_gpt
from nslab.reruns._char_gpt_twin import train_twin
from nslab.reruns.stable_char_gpt import consecutive_windows
from nslab.transformer import Transformer
from nslab.zoo.characters import char_gpt as shipped_char_gpt

NAME = "barrier-char-gpt"
WATCHED = 8  # windows whose margins are measured on the way


@dataclass(frozen=True)
class Config(char_gpt.Config):
    """What char-gpt's has, then the penalty, then what is measured at the end.

    Attributes:
        strength: lambda, the weight of the penalty.
        kind: the shape of the barrier.
        delta: the determinant under which the barrier goes on as a straight line.
        rows: positions of each window on which it is taken.
        keep: probabilities that a character is kept, at which stability is measured.
        measured: held-out windows on which the twin and char-gpt are compared.
        twins: noisy twins a window and keep.
        margins: held-out windows whose heads are measured, and that are disturbed.
        spots: positions of a window at which the local change of the loss is measured.
        draws: of its noise.
    """

    strength: float | int = 0.5
    kind: Kind = "hinge"
    delta: float | int = 0.05
    rows: int = 1
    keep: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98)
    measured: int = 512
    twins: int = 1
    margins: int = 64
    spots: int = 16
    draws: int = 2


PRESETS = {
    "quick": Config(**vars(char_gpt.PRESETS["quick"]), measured=64, margins=16, spots=4),
    "laptop": Config(**vars(char_gpt.PRESETS["laptop"])),
    "full": Config(**vars(char_gpt.PRESETS["full"]), rows=16, measured=2048, twins=4, margins=256),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train as char-gpt with the barrier, keep the weights of seed 0, and measure them beside char-gpt's.

    Errors: `ValueError` for a strength below 0, a shape of barrier that is none, or plays as in `train_twin`.
    """
    reference = shipped_char_gpt()
    length = config.model.context

    def watch(model: Transformer, held_out: Tensor) -> dict:
        x, _ = consecutive_windows(held_out, length, WATCHED)
        determinant = measuring.determinants(stages(model, x))
        return {"determinant_quantiles": torch.tensor(measuring.quantiles(determinant.cpu()))}

    strength, penalty = head_regulariser(config.strength, kind=config.kind, delta=config.delta, rows=config.rows)
    result, twin, held_out = train_twin(
        config,
        log,
        device,
        name=NAME,
        says=(
            f"{config.strength} times the {config.kind} barrier on its heads (delta = {config.delta}, "
            f"rows = {config.rows})"
        ),
        beside=reference,
        penalties=lambda model: [(strength, penalty.watch(model))],  # else a resumed run adds in another order
        watch=watch,
    )
    penalty.stop()
    if twin is None:
        return result
    x, y = consecutive_windows(held_out, length, config.margins)
    models, chosen = {}, []
    for model in (twin, reference):
        margins = measuring.head_margins(model, x)
        determinant, spectral = margins.of_tokens()
        chosen.append(measuring.support(determinant))
        correlation = measuring.local_correlation(model, x, y, spectral, spots=config.spots, draws=config.draws)
        models[model.name] = stable_char_gpt.measures(model, held_out, _measured(config)) | {
            "margins": margins.summary(),
            "disturbed": measuring.disturbed(model, x, y),
            "local_correlation": correlation,
        }
    return result | {
        "models": models,
        "overlap": measuring.overlaps(chosen)[0],
        "keep": list(config.keep),
        "quantiles": list(measuring.QUANTILES),
        "sizes": list(measuring.SIZES),
        "substituted": list(measuring.SUBSTITUTED),
    }


def phenomenon(result: dict) -> str | None:
    """As char-gpt's, and the barrier lifts the least determinants: the 1 % quantile is above that of char-gpt."""
    twin, plain = (result["models"][name]["margins"]["determinant_quantiles"][1] for name in (NAME, "char-gpt"))
    if twin <= plain:
        return f"larger least determinants: 1 % of the twin's are below {twin:.3f}, of char-gpt's below {plain:.3f}"
    return char_gpt.phenomenon(result)


def _measured(config: Config) -> stable_char_gpt.Config:
    """What `stable_char_gpt.measures` asks for."""
    same = {field.name: getattr(config, field.name) for field in fields(char_gpt.Config)}
    return stable_char_gpt.Config(**same, keep=config.keep, measured=config.measured, twins=config.twins)
