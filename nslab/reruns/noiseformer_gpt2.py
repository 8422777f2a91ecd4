"""Pre-training a NoiseFormer of GPT-2's size by nanoGPT's recipe: ready to run, proved by a few steps, and costed.

`RECIPE` and `GPT2` are nanoGPT's, as its repository stood in November 2025: 12 layers, 12 heads, width 768, context
1024, 50,304 tokens, no biases; 600,000 steps of 491,520 tokens, AdamW with betas 0.9 and 0.95, a learning rate that
climbs to 6e-4 in 2,000 steps and falls to 6e-5 along a cosine, weight decay 0.1, gradients clipped at 1.

`laptop` makes the first 20 steps of that schedule with the true network, one sequence a step in place of 480, in single
precision. After the tenth, the state goes to disk; a new network, drawn from another seed, takes it up; and the next
step of both must be equal, weights, averages of the optimiser and loss, to the bit. The result also says what the
whole recipe costs: its floating point operations, counted, and the hours of GPUs at an assumed utilisation. What a step
took here is kept beside the record in `cost.json`, since it differs from run to run; `costs` puts the two together.

`full` is the whole recipe. It reads the OpenWebText that nanoGPT prepares, from the folder in $NSLAB_OPENWEBTEXT:

    torchrun --nproc-per-node 8 -m nslab rerun noiseformer-gpt2 --preset full --resume

The network is "v2-key": a learned noise per head on the keys. Of the variants with one noise per head it is one that
the fused kernel can train: in nanoGPT's part of 12 sequences its noise takes 38 MB a layer. Noise on the scores, such
as "v2-relative", takes 604 MB a layer, and the kernel must be handed all of them. `--set variant=v2-relative` trains
it all the same. Where the noise of the paper stands, and with what settings it was pre-trained, is not known to us.

Source: the repository karpathy/nanoGPT, train.py and model.py, for the recipe; arXiv 2601.11619 for the idea.
"""

import gc
import hashlib
import json
import statistics
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nslab.attention.settings import VARIANTS
from nslab.records import Record, RunLog
from nslab.reruns._gpt2_text import ArrayBatches, Tokens, spread_windows, tokens
from nslab.reruns._noiseformer_arms import STANDARD, Arm, training_flops
from nslab.reruns._seconds import seconds
from nslab.training import TrainingConfig, cross_entropy
from nslab.training.accumulation import AccumulatingTrainer
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import noise_bytes, parameter_count
from nslab.transformer.noiseformer import NoiseFormer

GPT2 = TransformerConfig(vocabulary=50304, context=1024, width=768, layers=12, heads=12, bias=False)
RECIPE = TrainingConfig(
    steps=600_000,
    batch=480,
    learning_rate=6e-4,
    weight_decay=0.1,
    betas=(0.9, 0.95),
    warmup=2000,
    schedule="cosine",
    floor=0.1,
    clip=1.0,
    evaluate_every=1000,
    autocast="bfloat16",
)
MICRO = 12  # sequences that nanoGPT passes at once
COST = "cost.json"


@dataclass(frozen=True)
class Config:
    """What is trained, how far, and what its cost is worked out from.

    Attributes:
        seeds: 1; it is the seed 0.
        model: the shape.
        training: the settings. `batch` counts the sequences of a step, over all parts and processes.
        micro: sequences that are passed at once.
        stop: the step after which the run ends; None for the last one.
        resume_at: the step after which a resume is proved; None for no proof. One process only.
        variant: "standard", or a name in `nslab.attention.settings.VARIANTS`.
        beta: weight of the KL of the noise.
        text: "package", or "openwebtext" from $NSLAB_OPENWEBTEXT.
        windows: held-out windows of an evaluation, as long as the context.
        gpus: GPUs of the estimate.
        gpu_flops: floating point operations a second of one, at its best; 312e12 is an A100's in bfloat16.
        utilisation: the share of it that a training is assumed to reach. nanoGPT's "about 4 days" on 8 GPUs is 0.29.
        save_every: steps between two checkpoints.
    """

    seeds: int
    model: TransformerConfig
    training: TrainingConfig
    micro: int
    stop: int | None = None
    resume_at: int | None = None
    variant: str = "v2-key"
    beta: float | int = 1e-3
    text: Literal["package", "openwebtext"] = "package"
    windows: int = 2
    gpus: int = 8
    gpu_flops: float | int = 312e12
    utilisation: float | int = 0.3
    save_every: int = 1000


PRESETS = {
    "quick": Config(
        seeds=1,
        model=replace(GPT2, context=64, width=32, layers=2, heads=2),
        training=replace(RECIPE, steps=24, batch=4, learning_rate=6e-3, warmup=4, evaluate_every=8, autocast=None),
        micro=2,
        resume_at=8,
        windows=8,
        save_every=8,
    ),
    "laptop": Config(
        seeds=1,
        model=GPT2,
        training=replace(RECIPE, batch=1, evaluate_every=10, autocast=None),
        micro=1,
        stop=20,
        resume_at=10,
        save_every=10,
    ),
    "full": Config(seeds=1, model=GPT2, training=RECIPE, micro=MICRO, text="openwebtext", windows=200),
}


class Watched:
    """The loss of a language model, which remembers its last value."""

    last: float = float("nan")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy."""
        loss = cross_entropy(output, target)
        self.last = loss.detach()
        return loss


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train to the end, or to `config.stop`; under `torchrun` the processes share each batch."""
    arm = checked(config, log.world)
    text = tokens(config.text)
    trainer, proof = trainer_of(config, arm, text, device), None
    if log.restored:
        trainer.load_state(log.restored["trainer"])
        proof = log.restored["proof"]
    elif log.rank == 0:
        log.record(0, **trainer.evaluate(trainer.model.eval()))
    if config.resume_at is not None and proof is None:
        go_on(config, trainer, log, None, config.resume_at)
        state = log.folder / "state.pt"
        torch.save(trainer.state(), state)
        before = next_step(trainer)
        del trainer  # one network in memory at a time
        gc.collect()
        trainer = trainer_of(config, arm, text, device, seed=1)
        trainer.load_state(torch.load(state, map_location="cpu", weights_only=True, mmap=True))
        proof = {"after_step": config.resume_at, "went_on": before, "resumed": next_step(trainer)}
        state.unlink()
    took = go_on(config, trainer, log, proof, config.stop or config.training.steps)
    found = estimate(config, arm) | {"variant": config.variant, "steps": trainer.step, "proof": proof}
    if log.rank:
        return found  # the first rank alone has the history
    if took:
        told = {"step_seconds": statistics.median(took), "steps": len(took), "processes": log.world}
        log.artifact(COST).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    history = log.arrays()
    return found | {
        "train_tokens": len(text.train),
        "held_out_tokens": len(text.held_out),
        "held_out_loss": history["held_out_loss"].tolist(),
        "held_out_at": history["held_out_loss_step"].tolist(),
    }


def phenomenon(result: dict) -> str | None:
    """The network learns, and a training that is cut and resumed is the one that is not, to the bit."""
    losses, proof = result["held_out_loss"], result["proof"]
    if losses[-1] >= losses[0]:
        return f"a held-out loss that falls: it was {losses[0]:.4f} and is {losses[-1]:.4f}"
    if proof is not None and proof["went_on"] != proof["resumed"]:
        return f"equal next steps of a training that went on, {proof['went_on']}, and one resumed, {proof['resumed']}"
    return None


def checked(config: Config, processes: int) -> Arm:
    """The arm that is trained.

    Errors: `ValueError` for an unknown variant, more than one seed, or a proof of the resume by several processes.
    """
    if config.variant not in (STANDARD, *VARIANTS):
        raise ValueError(f"variant is {config.variant!r}: choose from {STANDARD}, {', '.join(VARIANTS)}")
    if config.seeds != 1:
        raise ValueError(f"seeds is {config.seeds}: a training of this size is made once, so give 1")
    if config.resume_at is not None and processes > 1:
        raise ValueError(
            f"resume_at is {config.resume_at} and there are {processes} processes: prove the resume with one, or set "
            "resume_at=None"
        )
    return Arm("GPT-2's shape", config.variant, equal=False)


def trainer_of(config: Config, arm: Arm, text: Tokens, device: torch.device, seed: int = 0) -> AccumulatingTrainer:
    """The trainer of a new network, its weights drawn from the seed. Each process draws a noise of its own."""
    model = arm.network(config.model, seed, device)
    x, y = spread_windows(text.held_out, config.model.context, config.windows, device)

    @torch.no_grad()
    def held_out(model: Transformer) -> dict:
        parts = zip(x.split(config.micro), y.split(config.micro), strict=True)
        total = sum(len(part) * float(cross_entropy(model(part), target)) for part, target in parts)
        return {"held_out_loss": total / len(x)}

    trainer = AccumulatingTrainer(
        model,
        config.training,
        ArrayBatches(text.train, config.model.context, config.training.batch, device),
        micro=config.micro,
        loss=Watched(),
        penalties=arm.penalties(config.beta),
        evaluate=held_out,
    )
    if isinstance(model, NoiseFormer):
        model.stream = trainer.rank
    return trainer


def go_on(config: Config, trainer: AccumulatingTrainer, log: RunLog, proof: dict | None, until: int) -> list[float]:
    """Train to a step; the seconds of each step, with whatever evaluation or checkpoint it ends with."""

    def step() -> None:
        trainer.run(
            log=log,
            save=lambda state: log.save({"trainer": state, "proof": proof}),
            save_every=config.save_every,
            progress=log.progress,
            until=trainer.step + 1,
        )

    return [seconds(step, trainer.device) for _ in range(trainer.step, until)]


def next_step(trainer: AccumulatingTrainer) -> dict:
    """Make one more step, and say what came of it.

    Returns:
        "loss" of the step, and "sha256" of all weights and averages of the optimiser after it.
    """
    trainer.run(until=trainer.step + 1)
    digest = hashlib.sha256()
    state = trainer.optimizer.state
    for name, weight in trainer.model.named_parameters():
        digest.update(name.encode())
        for part in (weight, *(state[weight][key] for key in ("exp_avg", "exp_avg_sq"))):
            digest.update(part.detach().cpu().numpy().tobytes())
    return {"loss": float(trainer.loss.last), "sha256": digest.hexdigest()}


def estimate(config: Config, arm: Arm) -> dict:
    """What this network and the whole of `RECIPE` cost, by counting: nothing here is measured."""
    model = config.model
    a_token = training_flops(model, arm.scores, model.context)
    recipe = a_token * RECIPE.steps * RECIPE.batch * model.context
    return {
        "parameters": parameter_count(model, arm.scores),
        "standard_parameters": parameter_count(model),
        "flops_a_token": a_token,
        "flops_a_step_here": a_token * config.training.batch * model.context,
        "recipe_tokens": RECIPE.steps * RECIPE.batch * model.context,
        "recipe_flops": recipe,
        "gpus": config.gpus,
        "gpu_flops": config.gpu_flops,
        "utilisation": config.utilisation,
        "gpu_hours": recipe / (config.gpu_flops * config.utilisation) / 3600,
        "hours": recipe / (config.gpus * config.gpu_flops * config.utilisation) / 3600,
        "noise_bytes_a_layer": {
            name: noise_bytes(model, VARIANTS[name], MICRO, model.context)
            for name in ("v1-key", "v2-key", "v1-relative", "v2-relative")
        },
    }


def costs(record: Record) -> dict[str, float]:
    """What a step took on the machine of the record, and what the whole recipe would take there.

    Returns:
        "step_seconds", the middle of the steps: the processor's seconds on a CPU, the clock's on a GPU; of all
        processes together "flops_a_second", counted operations over these; "recipe_hours", of the whole recipe at that
        speed; "peak_memory_mib" of a process.
    """
    measured, result = json.loads((record.path / COST).read_text(encoding="utf-8")), record.result
    speed = result["flops_a_step_here"] / measured["step_seconds"]
    return {
        "step_seconds": measured["step_seconds"],
        "flops_a_second": speed,
        "recipe_hours": result["recipe_flops"] / speed / 3600,
        "peak_memory_mib": record.run["peak_memory_mib"],
    }
