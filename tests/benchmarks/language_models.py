"""What the zoo adds to a network: to a gradient through SmolLM2, and to a plain call of char-gpt."""

import statistics
import time
from collections.abc import Callable

import torch

from nslab import corpora, zoo
from nslab.stability import geometric_influence
from nslab.transformer import CHAR_GPT, Transformer
from nslab.zoo.smollm2 import smollm2_folder
from tests.benchmarks.harness import Row, as_long

PROMPTS, LENGTH = 16, 256
ROWS = 64


def rows() -> list[Row]:
    """The influence profile of SmolLM2, where its package is in the cache, and the black box of char-gpt."""
    return [*_influence_profile(), _black_box()]


def _influence_profile() -> list[Row]:
    """All positions of all prompts at once, against one forward and backward pass of the same scalar by hand."""
    if not all(corpora.is_cached(corpora.find(name)) for name in ("smollm2-135m", "wikipedia")):
        print("  left out: SmolLM2 or its texts are not in the cache (`nslab fetch smollm2-135m wikipedia`)")
        return []
    from transformers import AutoModelForCausalLM

    model = zoo.load("smollm2-135m")
    texts = [text for text in corpora.passages("wikipedia") if len(model.encode(text)) >= LENGTH][:PROMPTS]
    ids = model.prompts(texts, length=LENGTH)
    score = zoo.top_token_score(model, ids)
    embeddings, token = score.embeddings, score.token  # made before the clock starts, on both sides
    plain = AutoModelForCausalLM.from_pretrained(smollm2_folder()).eval().requires_grad_(False)

    def by_hand():
        start = embeddings.clone().requires_grad_()
        logits = plain(inputs_embeds=start, use_cache=False, logits_to_keep=1).logits[:, -1]
        value = torch.log_softmax(logits, -1).gather(1, token[:, None]).sum()
        return torch.autograd.grad(value, start)[0].norm(dim=-1)

    def ours():
        return geometric_influence(score, embeddings)

    torch.testing.assert_close(ours(), by_hand(), rtol=1e-3, atol=1e-5)  # also the warm-up
    seconds = _interleaved(ours, by_hand, repeats=3)
    return [
        as_long(
            f"influence profile of SmolLM2, {PROMPTS} prompts x {LENGTH} tokens",
            seconds[0],
            "one forward and backward pass by hand",
            seconds[1],
            target=1.15,
            note="the log-probability of the top token at the last position, through its embeddings; parameters "
            "frozen and the head at that position only, on both sides; three interleaved runs",
        )
    ]


def _black_box() -> Row:
    """Ids to next-token probabilities through the zoo, against the bare module at the same position."""
    module = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    alphabet = "".join(map(chr, range(33, 33 + CHAR_GPT.vocabulary)))
    black_box = zoo.distribution(zoo.adopt_characters(module, alphabet))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(CHAR_GPT.vocabulary, (ROWS, CHAR_GPT.context), generator=generator)
    last = torch.full((ROWS,), CHAR_GPT.context - 1)

    def ours():
        return black_box(ids)

    def bare():
        return module(ids, last)

    torch.testing.assert_close(ours(), torch.softmax(bare(), -1))
    seconds = _interleaved(ours, bare, repeats=15)
    return as_long(
        "next-token distribution of char-gpt as a black box",
        seconds[0],
        "the bare module",
        seconds[1],
        target=1 / 0.9,
        note=f"{ROWS} texts of {CHAR_GPT.context} characters, read at the last position on both sides; random weights",
    )


def _interleaved(ours: Callable, theirs: Callable, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of both, run in turn, so that a busy machine slows both alike."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, kept in zip((ours, theirs), found, strict=True):
            start = time.process_time()
            work()
            kept.append(time.process_time() - start)
    return statistics.median(found[0]), statistics.median(found[1])
