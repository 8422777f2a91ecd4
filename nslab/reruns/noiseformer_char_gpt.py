"""noiseformer-char-gpt: the twin of char-gpt whose queries are its keys, with learned noise on the scores.

Plays, seed and batches are those of char-gpt at the same preset, and so is the shape, but for the attention: without
key projections the twin has fewer parameters. Its noise is our reading of the paper, the default of our study: one
number for each head and distance of two positions, mean and deviation learned, drawn anew for every score in training.
The twin and the char-gpt of this package then stand side by side on the same held-out windows: loss, calibration, noise
stability, losses on disturbed inputs. They differ in two things, in the tied attention and in the noise, and this is
one network of each: what the noise alone does is for `noiseformer-pretrain` to tell.

The char-gpt of this package is that of "laptop": at "full" the two differ in length and batches, too. The twin's
weights are kept in half precision. A step with a noise of each head costs about 1.4 times one of char-gpt.
"""

import copy
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nslab.attention.settings import VARIANTS
from nslab.records import RunLog
from nslab.reruns import _barrier_measures as measuring
from nslab.reruns import char_gpt, stable_char_gpt
from nslab.reruns._char_gpt_twin import Kind, train_twin
from nslab.reruns.stable_char_gpt import consecutive_windows
from nslab.training.calibration import calibration
from nslab.training.noise_kl import noise_regulariser
from nslab.transformer import Transformer
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.noiseformer_files import save_noiseformer
from nslab.transformer.predicting import predict
from nslab.zoo.characters import char_gpt as shipped_char_gpt
from nslab.zoo.noiseformer_twin import noiseformer_from

NAME = "noiseformer-char-gpt"
BATCH = 64  # windows at once
DIGITS = 4  # of the learned noise, in the result


@dataclass(frozen=True)
class Config(char_gpt.Config):
    """What char-gpt's has, then the noise, then what is measured at the end.

    Attributes:
        variant: of the attention, one of `nslab.attention.settings.VARIANTS` with noise by distance.
        beta: weight of the divergence of the noise from a standard Gaussian.
        keep: probabilities that a character is kept, at which stability is measured.
        measured: held-out windows on which the twin and char-gpt are compared.
        twins: noisy twins a window and keep.
        disturbed: held-out windows that are disturbed.
        draws: of the twin's noise, for its answers by sample and by average.
    """

    variant: str = "v2-relative"
    beta: float | int = 1e-3
    keep: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98)
    measured: int = 512
    twins: int = 1
    disturbed: int = 64
    draws: int = 8


PRESETS = {
    "quick": Config(**vars(char_gpt.PRESETS["quick"]), measured=64, disturbed=16, draws=2),
    "laptop": Config(**vars(char_gpt.PRESETS["laptop"])),
    "full": Config(**vars(char_gpt.PRESETS["full"]), measured=2048, twins=4, disturbed=256, draws=32),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train as char-gpt with learned noise, keep the weights of seed 0, and measure them beside char-gpt's.

    Errors: `ValueError` for a variant without noise by distance, a beta below 0, or plays as in `train_twin`.
    """
    by_distance = [name for name, one in VARIANTS.items() if one.noise is not None and one.noise.family == "relative"]
    if config.variant not in by_distance:
        raise ValueError(f"variant is {config.variant!r}: choose one with noise by distance, {', '.join(by_distance)}")
    scores = VARIANTS[config.variant]
    reference = shipped_char_gpt()

    def watch(model: NoiseFormer, held_out: Tensor) -> dict:
        mean, sigma = learned_noise(model)
        return {"sigma": sigma.mean(-1), "mean_spread": mean.std(-1)}

    result, twin, held_out = train_twin(
        config,
        log,
        device,
        name=NAME,
        says=f"symmetric attention and learned noise on its scores ({config.variant}, beta = {config.beta})",
        beside=reference,
        penalties=lambda model: [noise_regulariser(config.beta)],
        kind=Kind(lambda shape, **options: NoiseFormer(shape, scores, **options), save_noiseformer, noiseformer_from),
        watch=watch,
    )
    if twin is None:
        return result
    models = {}
    for model in (twin, reference):
        x, y = consecutive_windows(held_out, config.model.context, config.disturbed)
        models[model.name] = stable_char_gpt.measures(model, held_out, _measured(config)) | {
            "disturbed": measuring.disturbed(model, x, y),
        }
    x, y = consecutive_windows(held_out, config.model.context, config.measured)
    mean, sigma = learned_noise(twin.module)
    return result | {
        "parameters_of_char_gpt": sum(weight.numel() for weight in Transformer(config.model).parameters()),
        "models": models,
        "modes": modes(twin.module, x, y, config.draws),
        "noise": {"mean": _rounded(mean), "sigma": _rounded(sigma)},
        "keep": list(config.keep),
        "sizes": list(measuring.SIZES),
        "substituted": list(measuring.SUBSTITUTED),
    }


def phenomenon(result: dict) -> str | None:
    """As char-gpt's, and the learned mean is no idle one: without it, the twin predicts unseen plays worse."""
    loss, without = (result["modes"][mode]["loss"] for mode in ("mean", "without mean"))
    if without <= loss:
        return f"a mean of the noise that helps: the loss is {loss:.4f} with it and {without:.4f} without"
    return char_gpt.phenomenon(result)


def learned_noise(model: NoiseFormer) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the noise on scores by distance, each (layers, heads, context); V1 has one for all heads.

    Both are in units of the scores before they are divided by the root of the head width.
    """
    found = [noise.described() for noise in model.noises()]
    mean, log_sigma = (torch.stack(parts).detach().cpu() for parts in zip(*found, strict=True))
    return mean, log_sigma.exp()


@torch.no_grad()
def modes(model: NoiseFormer, x: Tensor, y: Tensor, draws: int) -> dict:
    """Loss and calibration error of a twin that answers by the mean of its noise, by samples, or by an average of them.

    Returns:
        For "mean", "without mean" (set to 0) and "average", "loss" in nats a character and "calibration_error"; for
        "sample" lists of them, one a draw.
    """

    def told(network: NoiseFormer, mode: str, seed: int = 0) -> dict[str, float]:
        generator = torch.Generator(x.device).manual_seed(seed)
        options = {"mode": mode, "draws": draws, "generator": generator}
        answers = torch.cat([predict(network, part, **options) for part in x.split(BATCH)])
        loss = -answers.gather(-1, y[..., None]).double().mean()
        return {"loss": float(loss), "calibration_error": calibration(answers.exp(), y).error}

    samples = [told(model, "sample", seed) for seed in range(draws)]
    return {
        "mean": told(model, "mean"),
        "without mean": told(_without_mean(model), "mean"),
        "average": told(model, "average", draws),
        "sample": {key: [one[key] for one in samples] for key in samples[0]},
    }


def _without_mean(model: NoiseFormer) -> NoiseFormer:
    changed = copy.deepcopy(model)
    for noise in changed.noises():
        noise.mean.zero_()
    return changed


def _rounded(noise: Tensor) -> list:
    return [[[round(value, DIGITS) for value in row] for row in layer] for layer in noise.tolist()]


def _measured(config: Config) -> stable_char_gpt.Config:
    """What `stable_char_gpt.measures` asks for."""
    same = {field.name: getattr(config, field.name) for field in fields(char_gpt.Config)}
    return stable_char_gpt.Config(**same, keep=config.keep, measured=config.measured, twins=config.twins)
