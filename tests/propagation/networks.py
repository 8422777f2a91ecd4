"""Random networks for tests, many at once, and their limit: written from the layer's formula, without the package."""

import math

import torch


def run(networks, tokens, width, layers, rho, *, generator, pairs=4, scores="random", scale=1.0, residual="none",
        norm="none", mlp=True, causal=False):  # fmt: skip
    """(layers + 1, 4, networks): m, o, q, p of each network, averaged over pairs of sequences and tokens.

    rho is a number or one for each network.
    """

    def matrix(spread):
        return torch.randn(networks, width, width, generator=generator) * spread

    def add(h, block):
        return {"none": block, "scaled": (h + block) / math.sqrt(2), "pre-norm": h + block}[residual]

    def normed(h):
        h = h - h.mean(-1, keepdim=True) if norm == "layer" else h
        return h if norm == "none" else h * torch.rsqrt(h.square().mean(-1, keepdim=True))

    def times(h, w):  # (networks, runs, tokens, width) by (networks, width, width)
        return (h.flatten(1, 2) @ w).view_as(h)

    rho = torch.as_tensor(rho).expand(networks).reshape(-1, 1, 1, 1)
    x, z = torch.randn(2, networks, pairs, tokens, width, generator=generator)
    h = torch.cat([x, rho * x + (1 - rho**2).sqrt() * z], 1)
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    found = [four(h)]
    for _ in range(layers):
        u = normed(h)
        query = times(u, matrix(scale)) if scores == "random" else scale * u
        logits = query @ u.mT / (math.sqrt(width) * u.square().mean((-2, -1), keepdim=True))
        weights = (logits.masked_fill(hidden, -math.inf) if causal else logits).softmax(-1)
        h = add(h, times(weights @ u, matrix(1 / math.sqrt(width))))
        if mlp:
            inner = times(normed(h), matrix(1 / math.sqrt(width))).relu_()
            h = add(h, times(inner, matrix(math.sqrt(2 / width))))
        found.append(four(h))
    return torch.stack(found)


def four(h):
    """m, o, q, p of states (networks, 2 * pairs, tokens, width): the first half of the runs are x, the others y."""
    x, y = h.chunk(2, 1)
    tokens, width = h.shape[-2:]

    def same_and_other(a, b):
        same = (a * b).sum((-2, -1)) / (tokens * width)
        every = (a.sum(-2) * b.sum(-2)).sum(-1) / width
        return same.mean(-1), ((every - tokens * same) / (tokens * (tokens - 1))).mean(-1)

    (m, o), (q, p), (q_prime, p_prime) = same_and_other(x, y), same_and_other(x, x), same_and_other(y, y)
    return torch.stack([m, o, (q + q_prime) / 2, (p + p_prime) / 2])


def limit(sequences, tokens, width, layers, rho, *, generator, residual="none", scale=1.0):
    """(layers + 1, 4, sequences): m, o, q, p of each pair of sequences in networks of infinite width.

    Random weights then act on the Gram matrix K of the 2n states alone: logits are Gaussian with covariance K (x) K,
    values keep K, and the MLP maps each entry. `width` sets the spread of the logits. No copies are left out.
    """
    eye = torch.eye(tokens, dtype=torch.float64)
    gram = torch.cat([torch.cat([eye, rho * eye], 1), torch.cat([rho * eye, eye], 1)])
    gram = gram.expand(sequences, -1, -1)
    runs = torch.block_diag(*torch.ones(2, tokens, tokens)) == 0
    found = [four_of_gram(gram)]
    for _ in range(layers):
        values, vectors = torch.linalg.eigh(gram)
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        noise = torch.randn(gram.shape, generator=generator, dtype=torch.float64)
        logits = (
            scale * math.sqrt(width) * root @ noise @ root.mT / gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        )
        weights = logits.masked_fill(runs, -math.inf).softmax(-1)
        block = weights @ gram @ weights.mT
        gram = block if residual == "none" else (gram + block) / 2
        size = gram.diagonal(dim1=1, dim2=2).sqrt()
        size = size[:, :, None] * size[:, None]
        cosine = (gram / size).clamp(-1, 1)
        block = size / math.pi * ((1 - cosine.square()).sqrt() + cosine * (math.pi - cosine.acos()))
        gram = block if residual == "none" else (gram + block) / 2
        found.append(four_of_gram(gram))
    return torch.stack(found)


def four_of_gram(gram):
    n = gram.shape[-1] // 2

    def same_and_other(block):
        same = block.diagonal(dim1=1, dim2=2).mean(1)
        return same, (block.mean((1, 2)) * n - same) / (n - 1)

    (m, o), (q, p), (q_prime, p_prime) = map(same_and_other, (gram[:, :n, n:], gram[:, :n, :n], gram[:, n:, n:]))
    return torch.stack([m, o, (q + q_prime) / 2, (p + p_prime) / 2])
