"""Training tokens per CPU second: `Trainer` on `CHAR_GPT` against a plain loop in the style of nanoGPT."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.transformer import CHAR_GPT, Transformer
from tests.benchmarks.harness import Row, faster

BATCH = 32
STEPS = 8  # of a run
RUNS = 5  # of each side, in turns


def rows() -> list[Row]:
    """One row: the seconds of one step, medians of interleaved runs."""
    ids = torch.randint(CHAR_GPT.vocabulary, (1_000_000,), generator=torch.Generator().manual_seed(0))
    sides = (_ours(ids), _twin(ids))
    for side in sides:
        side(2)
    runs = [[_cpu_seconds(side) for side in sides] for _ in range(RUNS)]
    ours, twin = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
    tokens = BATCH * CHAR_GPT.context
    note = (
        f"{RUNS} interleaved runs of {STEPS} steps; {tokens / ours:,.0f} against {tokens / twin:,.0f} tokens a second"
    )
    return [faster("a training step of CHAR_GPT, 32 x 128 characters", ours, "a nanoGPT-style loop", twin, 0.97, note)]


def _cpu_seconds(side: Callable[[int], None]) -> float:
    start = time.process_time()
    side(STEPS)
    return (time.process_time() - start) / STEPS


def _ours(ids: torch.Tensor) -> Callable[[int], None]:
    config = TrainingConfig(steps=10**6, batch=BATCH, learning_rate=1e-3)
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(model, config, TextBatches(ids, CHAR_GPT.context, BATCH))
    return lambda steps: trainer.run(until=trainer.step + steps)


def _twin(ids: torch.Tensor) -> Callable[[int], None]:
    torch.manual_seed(0)
    model = Gpt()
    assert sum(weight.numel() for weight in model.parameters()) == 820_096  # those of CHAR_GPT
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    context = CHAR_GPT.context

    def run(steps: int) -> None:
        for _ in range(steps):
            starts = torch.randint(len(ids) - context, (BATCH,))
            x = torch.stack([ids[i : i + context] for i in starts])
            y = torch.stack([ids[i + 1 : i + 1 + context] for i in starts])
            model(x, y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


class Gpt(nn.Module):
    """The same network as plainly as it is usually written."""

    def __init__(self):
        super().__init__()
        width = CHAR_GPT.width
        self.wte = nn.Embedding(CHAR_GPT.vocabulary, width)
        self.wpe = nn.Embedding(CHAR_GPT.context, width)
        self.h = nn.ModuleList(GptBlock(width, CHAR_GPT.heads) for _ in range(CHAR_GPT.layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, CHAR_GPT.vocabulary, bias=False)
        self.wte.weight = self.lm_head.weight
        for weight in self.parameters():
            if weight.dim() >= 2:
                nn.init.normal_(weight, 0, 0.02)

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1)))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gelu = nn.GELU()

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp_proj(self.gelu(self.c_fc(self.ln_2(x))))

    def attention(self, x):
        batch, length, width = x.size()
        parts = self.c_attn(x).split(width, dim=2)
        q, k, v = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))
