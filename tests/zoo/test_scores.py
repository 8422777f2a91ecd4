"""The score of a prompt, and what a model says as numbers, against loops over `transformers` and finite differences."""

import copy
import math

import pytest
import torch

from nslab import zoo
from nslab.protocols import PromptScore


def chances(model, row):
    """Log-probabilities (length, vocabulary) of one row, by `transformers` alone."""
    return torch.log_softmax(model.module(input_ids=row[None]).logits[0], -1)


def in_float64_throughout(model):
    """A copy whose RMSNorms are torch's: `transformers` computes those in float32, whatever the dtype."""
    module = copy.deepcopy(model.module)
    for part in list(module.modules()):
        for name, norm in list(part.named_children()):
            if type(norm).__name__ == "LlamaRMSNorm":
                exact = torch.nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)
                exact.weight.data = norm.weight.data
                setattr(part, name, exact)
    return zoo.adopt(module, model.tokens.tokenizer)


def prompts_of(model, random_ids, rows=3):
    """Prompts with the tokens that the tokenizer would add around them."""
    ids = random_ids(model, rows=rows)
    if model.kind != "causal":
        around = model.encode("word")[[0, -1]]
        ids[:, 0], ids[:, -1] = around[0], around[1]
    return ids


def test_the_score_is_the_log_probability_of_the_top_token(model, random_ids):
    ids = prompts_of(model, random_ids)
    score = zoo.top_token_score(model, ids)
    assert isinstance(score, PromptScore)
    for number, row in enumerate(ids):
        if model.kind == "encoder":
            mean = model.module(input_ids=row[None]).last_hidden_state[0].mean(0)
            assert math.isclose(score.value[number], mean.norm(), rel_tol=1e-9)
            continue
        row = row.clone()
        if model.kind == "masked":
            row[7] = model.mask_id  # position 8 holds the closing token
            assert torch.equal(score.ids[number], row)
        value, token = chances(model, row)[7 if model.kind == "masked" else 8].max(-1)
        assert score.token[number] == token
        assert math.isclose(score.value[number], value, rel_tol=1e-9)
    assert len(score.token_text) == (0 if model.kind == "encoder" else 3)
    torch.testing.assert_close(score.from_embeddings(score.embeddings), score.value)
    torch.testing.assert_close(score.trace(score.embeddings)[0], score.value)
    torch.testing.assert_close(score.for_prompts(torch.arange(3))(score.ids), score.value)


def test_the_gradient_is_the_limit_of_differences(model, random_ids, tolerance):
    score = zoo.top_token_score(in_float64_throughout(model), prompts_of(model, random_ids))
    step, slack = 1e-6, tolerance["derivative"]
    start = score.embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score.from_embeddings(start).sum(), start)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = torch.randn(start.shape, generator=generator, dtype=start.dtype)
        with torch.no_grad():
            ends = [score.from_embeddings(start + sign * step * way) for sign in (1, -1)]
        found = (ends[0] - ends[1]) / (2 * step)
        expected = (gradient * way).sum((1, 2))
        torch.testing.assert_close(found, expected, rtol=slack, atol=slack)


def test_a_variant_is_scored_by_the_token_of_its_own_prompt(model, random_ids):
    score = zoo.top_token_score(model, prompts_of(model, random_ids))
    prompt = torch.tensor([2, 0, 2, 1])
    variants = score.ids[prompt].clone()
    variants[:, 2] = random_ids(model, rows=1, length=4, seed=5)[0]
    found = score.for_prompts(prompt)(variants)
    for number, (row, own) in enumerate(zip(variants, prompt, strict=True)):
        if model.kind == "encoder":
            clean = model.module(input_ids=score.ids[own][None]).last_hidden_state[0].mean(0)
            mean = model.module(input_ids=row[None]).last_hidden_state[0].mean(0)
            expected = mean @ clean / clean.norm()
        else:
            expected = chances(model, row)[score.at[own], score.token[own]]
        assert math.isclose(found[number], expected, rel_tol=1e-9)
    torch.testing.assert_close(score.from_embeddings(model.embed(variants), prompt), found)
    with pytest.raises(ValueError, match="4 rows and the score 3 prompts: give prompt="):
        score.from_embeddings(model.embed(variants))


def test_where_to_read_is_a_choice(folders, random_ids):
    causal = zoo.load(str(folders["llama"]), dtype=torch.float64)
    ids = random_ids(causal)
    score = zoo.top_token_score(causal, ids, at=torch.tensor([3, -1, 5]))
    assert score.at.tolist() == [3, 8, 5]
    assert score.value[0] == pytest.approx(chances(causal, ids[0])[3].max().item())
    one = zoo.top_token_score(causal, ids[0, :1])  # a prompt of one token has a next token
    assert one.value[0] == pytest.approx(chances(causal, ids[0, :1])[0].max().item())
    masked = zoo.load(str(folders["bert"]), dtype=torch.float64)
    ids = prompts_of(masked, random_ids)
    score = zoo.top_token_score(masked, ids, at=2)
    assert score.ids[:, 2].tolist() == [masked.mask_id] * 3
    again = zoo.top_token_score(masked, score.ids, at=2)  # the mask may already stand
    assert torch.equal(again.value, score.value)


def test_places_that_cannot_be_read_are_refused(folders, random_ids):
    causal, masked, encoder = (zoo.load(str(folders[name])) for name in ("gpt2", "bert", "encoder"))
    with pytest.raises(ValueError, match="positions run from 0 to 8"):
        zoo.top_token_score(causal, random_ids(causal), at=9)
    for wrong in (torch.tensor([1, 2]), torch.tensor([1.5, 2.0, 3.0])):
        with pytest.raises(ValueError, match=r"give a whole number, or one a prompt, shape \(3,\)"):
            zoo.top_token_score(causal, random_ids(causal), at=wrong)
    with pytest.raises(ValueError, match=r"give \(batch, length\)"):
        zoo.top_token_score(masked, random_ids(masked)[..., None])
    with pytest.raises(ValueError, match="an encoder is read at all positions"):
        zoo.top_token_score(encoder, random_ids(encoder), at=1)
    with pytest.raises(ValueError, match=r"special token .* choose a position of the text"):
        zoo.top_token_score(masked, prompts_of(masked, random_ids), at=0)
    with pytest.raises(ValueError, match=r"ids\[0\] holds special tokens only"):
        zoo.top_token_score(masked, torch.full((1, 4), masked.special[0]))


def test_a_distribution_is_the_softmax_at_the_position_that_is_asked(model, random_ids):
    ids = prompts_of(model, random_ids)
    if model.kind == "encoder":
        with pytest.raises(ValueError, match=r"use zoo\.pooled"):
            zoo.distribution(model)
        return
    if model.kind == "masked":
        with pytest.raises(ValueError, match=r"ids\[0\] holds 0 masks: put mask_id"):
            zoo.distribution(model)(ids)
        ids[:, 4] = model.mask_id
    at = 4 if model.kind == "masked" else 8
    expected = torch.stack([chances(model, row)[at].exp() for row in ids])
    torch.testing.assert_close(zoo.distribution(model)(ids), expected)


def test_the_likelihood_of_a_sequence_is_a_sum_over_its_tokens(model, random_ids):
    ids = prompts_of(model, random_ids, rows=5)
    if model.kind == "encoder":
        with pytest.raises(ValueError, match="load a causal or masked model"):
            zoo.log_likelihood(model, ids)
        return
    expected, tokens = [], 0
    for row in ids:
        total = 0.0
        for place in range(len(row)):
            if model.kind == "causal" and place > 0:
                total += chances(model, row[:place])[-1, row[place]].item()
            elif model.kind == "masked" and int(row[place]) not in model.special:
                holed = row.clone()
                holed[place] = model.mask_id
                total += chances(model, holed)[place, row[place]].item()
            else:
                continue
            tokens += 1
        expected.append(total)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(zoo.log_likelihood(model, ids), expected)
    torch.testing.assert_close(zoo.log_likelihood(model, ids[0]), expected[:1])
    assert zoo.perplexity(model, ids) == pytest.approx(math.exp(-expected.sum().item() / tokens))


def test_one_token_has_no_likelihood(folders, random_ids):
    causal = zoo.load(str(folders["gpt2"]))
    with pytest.raises(ValueError, match="give at least two"):
        zoo.log_likelihood(causal, random_ids(causal, length=1))
    with pytest.raises(ValueError, match="not an encoder"):
        zoo.pooled(causal, random_ids(causal))


def test_half_precision_is_scored_in_single_precision(folders, random_ids):
    model = zoo.load(str(folders["llama"]), dtype=torch.bfloat16)
    assert zoo.top_token_score(model, random_ids(model)).value.dtype == torch.float32
    assert zoo.log_likelihood(model, random_ids(model)).dtype == torch.float32
