"""Every refusal names the argument, its value and the remedy; nothing that was found is lost."""

import math
import re
import subprocess
import sys

import pytest
import torch

from nslab.boolean.sampling import Sampling
from nslab.estimate import TooFewSamples
from nslab.stability import (
    Cube,
    GaussianSpace,
    Tokens,
    average_sensitivity,
    best_tail_bound,
    concentration_degree,
    gradient_energy,
    influences,
    markov_bound,
    noise_stability,
    spectral_tail_bound,
    tail_bound,
)

CUBE, TOKENS, GAUSS = Cube(3), Tokens(2, 5), GaussianSpace(2)
MANY = {"evaluations": 100}


def first(x):
    return x[:, 0].double()


CASES = [
    (
        lambda: noise_stability(first, TOKENS, rho=0.5, **MANY),
        r"rho = 0.5 does not fit Tokens.*effective rho.*paper_keep",
    ),
    (lambda: noise_stability(first, CUBE, keep=0.5, **MANY), r"keep = 0.5 does not fit Cube.*rho = 2 \* keep - 1"),
    (lambda: noise_stability(first, GAUSS, keep=0.5, **MANY), r"keep = 0.5 does not fit GaussianSpace.*give rho"),
    (lambda: noise_stability(first, TOKENS, rho=0.5, keep=0.5, **MANY), r"rho = 0.5 does not fit"),
    (lambda: noise_stability(first, CUBE, **MANY), r"rho is missing"),
    (lambda: noise_stability(first, TOKENS, **MANY), r"keep is missing.*paper_keep"),
    (lambda: noise_stability(first, CUBE, rho=1.2, **MANY), r"rho = 1.2 is outside \[-1, 1\]: it is the correlation"),
    (lambda: noise_stability(first, GAUSS, rho=[0.5, -2.0], **MANY), r"rho = -2 is outside"),
    (lambda: noise_stability(first, TOKENS, keep=-0.1, **MANY), r"keep = -0.1 is outside \[0, 1\].*probability"),
    (lambda: noise_stability(first, CUBE, rho=math.nan, **MANY), r"rho = nan"),
    (lambda: noise_stability(first, CUBE, rho=[], **MANY), r"rho has shape \(0,\)"),
    (lambda: noise_stability(first, CUBE, rho=0.5), r"evaluations=None and stderr=None"),
    (lambda: noise_stability(first, CUBE, rho=0.5, stderr=0.1, **MANY), r"evaluations=100 and stderr=0.1"),
    (lambda: noise_stability(first, CUBE, rho=0.5, stderr=0), r"stderr is 0"),
    (lambda: noise_stability(first, CUBE, rho=0.5, evaluations=3), r"evaluations = 3 is too few"),
    (
        lambda: noise_stability(first, CUBE, rho=[0.5] * 9, evaluations=19),
        r"evaluations = 19 is too few: two draws need 20",
    ),
    (lambda: noise_stability(first, CUBE, rho=0.5, method="linear", **MANY), r"evaluations = 100 is too few.*'linear'"),
    (lambda: noise_stability(first, Cube(5000), rho=0.5, method="nested+linear", evaluations=10**4), r"5000 features"),
    (lambda: noise_stability(first, CUBE, rho=0.5, batch_size=0, **MANY), r"batch_size is 0"),
    (lambda: noise_stability(first, CUBE, rho=0.5, stderr=0.1, max_evaluations=3), r"max_evaluations is 3"),
    (lambda: noise_stability(lambda x: x[:, 0] / 0, CUBE, rho=0.5, **MANY), r"f returned NaN or infinity in row 0"),
    (lambda: noise_stability(lambda x: x[:1, 0], CUBE, rho=0.5, **MANY), r"f returned shape \(1,\)"),
    (
        lambda: noise_stability(lambda x: x[:, :, None], CUBE, rho=0.5, **MANY),
        r"f returned .*shape \(\d+, 3, 1\).*flatten",
    ),
    (
        lambda: noise_stability(lambda x: 0 * x, CUBE, rho=0.5, version="normalised", **MANY),
        r"f is zero.*version='raw'",
    ),
    (lambda: noise_stability(lambda x: 0 * x + 3, CUBE, rho=0.5, version="centred", **MANY), r"f is constant.*0/0"),
    (
        lambda: noise_stability(first, CUBE, rho=[0.5] * 9, stderr=0.1, max_evaluations=10),
        r"max_evaluations = 10 is too few: two draws need 20",
    ),
    (
        lambda: noise_stability(first, CUBE, rho=0.5, stderr=0.1, method="linear", max_evaluations=10),
        r"max_evaluations = 10 is too few for method = 'linear'",
    ),
    (lambda: Cube(0), r"n = 0: it is the number of bits"),
    (lambda: GaussianSpace(-1), r"dimension = -1"),
    (lambda: Tokens(0, 5), r"length = 0"),
    (lambda: Tokens(2, 0), r"vocabulary = 0"),
    (lambda: Tokens(2, 3, special=(3,)), r"special has \[3\]: ids run from 0 to 2"),
    (lambda: Tokens(2, 3, special=(1, 1)), r"special is \(1, 1\)"),
    (lambda: Tokens(2, 1, special=(0,)), r"special holds all 1 ids"),
    (lambda: influences(first, CUBE, [3], samples=10), r"relevant = \(3,\).*0 to 2"),
    (lambda: influences(first, CUBE), r"samples=None and stderr=None"),
    (lambda: average_sensitivity(lambda x: x.log(), GAUSS, samples=10), r"f returned NaN or infinity"),
    (lambda: influences(lambda x: x[:, :, None], CUBE, samples=10), r"select or flatten"),
    (lambda: gradient_energy(first, CUBE, samples=10), r"space = Cube\(n=3\).*average_sensitivity"),
    (lambda: gradient_energy(lambda x: x[:, 0].detach(), GAUSS, samples=10), r"without a gradient"),
    (
        lambda: gradient_energy(lambda x: torch.ones(len(x), requires_grad=True), GAUSS, samples=10),
        r"without a gradient",
    ),
    (lambda: concentration_degree(0.05, 0.05, 0.9), r"delta = 0.05 is not below eps = 0.05.*larger rho"),
    (lambda: concentration_degree(0.2, 0.1, 0.9), r"delta = 0.2 is not below eps = 0.1"),
    (lambda: concentration_degree(-0.1, 0.1, 0.9), r"delta = -0.1"),
    (lambda: concentration_degree(0.01, 1.5, 0.9), r"eps = 1.5"),
    (lambda: concentration_degree(0.01, 0.1, 1.0), r"eigenvalue = 1.0 is outside \(0, 1\)"),
    (lambda: tail_bound(0.9, 1.0, 3), r"eigenvalue = 1 is outside.*markov_bound"),
    (lambda: tail_bound(0.9, -0.5, 3), r"eigenvalue = -0.5 is outside"),
    (lambda: tail_bound(2.5, 0.5, 3), r"stability = 2.5 is above 1.*normalised"),
    (lambda: tail_bound(0.9, 0.5), r"degree is missing: tail_bound\(estimate, degree=T\)"),
    (lambda: tail_bound(0.9, degree=3), r"eigenvalue is missing: a number does not know its noise"),
    (
        lambda: tail_bound(noise_stability(first, CUBE, rho=0.5, **MANY), degree=3),
        r"estimate of version raw: measure the normalised one",
    ),
    (lambda: tail_bound(influences(first, CUBE, samples=10), degree=3), r"estimate of version None"),
    (lambda: tail_bound(0.9, 0.5, 0), r"degree = 0"),
    (lambda: markov_bound(-1.0, 3), r"total_influence = -1"),
    (lambda: spectral_tail_bound(torch.ones(3), 1.5, 2), r"rho = \[1.5\] leaves"),
    (lambda: spectral_tail_bound(torch.tensor([1.0, -1.0]), 0.5, 2), r"weights = .*non-negative"),
    (lambda: best_tail_bound(torch.ones(2, 3), 2), r"weights has shape \(2, 3\)"),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_refused_by_name_with_value_and_remedy(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("measure", [influences, average_sensitivity, gradient_energy])
def test_a_misspelt_request_is_refused(measure):
    with pytest.raises(TypeError, match=r"unexpected argument 'seed'.*samples, stderr, generator, device, dtype"):
        measure(lambda x: x[:, 0], GAUSS, samples=10, seed=1)


def test_an_unreachable_target_says_what_it_would_need_and_keeps_what_was_found(seeded):
    f = lambda x: torch.sign(x.sum(-1))  # noqa: E731
    with pytest.raises(TooFewSamples, match=r"stderr=1e-05 needs about \S+ evaluations and max_evaluations") as caught:
        noise_stability(f, Cube(15), rho=0.5, stderr=1e-5, max_evaluations=10_000, method="naive", generator=seeded(0))
    found = caught.value.estimate
    assert 0 < found.evaluations <= 10_000
    assert 0 < found.stderr < 0.1
    needed = float(str(caught.value).split("needs about ")[1].split(" ")[0])
    assert needed == pytest.approx(found.samples * (float(found.stderr) / 1e-5) ** 2 * 2, rel=0.02)


UNCHECKED = """
import torch
from nslab import stability as s, zoo
from nslab.noise import Resample
from nslab.estimate import sample_mean

f, g, R = (lambda x: x[:, 0]), (lambda x: x[:, 0].double()), Resample(0, 5)
ids, e, c = torch.zeros(9, 3).long(), torch.zeros(9, 3, 2), zoo.load("char-gpt")
double = torch.nn.Linear(3, 1).double().eval()
for call in (
    lambda: s.noise_stability(f, s.Cube(3), rho=0.5, evaluations=1e4),
    lambda: s.noise_stability(f, 20, rho=0.5, evaluations=100),
    lambda: s.influences(f, 20, samples=10),
    lambda: s.influences(f, s.Cube(3), samples=8.0),
    lambda: s.discrete_influence(g, ids, R, samples=8.0),
    lambda: s.discrete_influence(g, ids, R, samples="all"),
    lambda: s.total_influence(g, ids, R, pairs=20.0),
    lambda: s.text_stability(g, ids, R, keep=0.5, twins=2.0),
    lambda: s.smoothed_influence(lambda e: e.norm(dim=-1), e, rho=0.5, twins=2.0),
    lambda: s.noise_stability(double, s.Cube(3), rho=0.5, evaluations=100),
    lambda: zoo.top_token_score(c, "To be"),
    lambda: zoo.perplexity(c, "To be"),
    lambda: zoo.top_token_score(c, [1, 2]),
    lambda: c("To be"),
    lambda: s.geometric_influence(c, c.embed(ids)),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_wrong_types_are_named_without_run_time_type_checks_too():
    """As readers have it, where no test looks over the arguments first."""
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True, check=True)
    expected = [
        r"evaluations is 10000\.0: .*whole number",
        r"space is 20: give Cube\(n\), Tokens",
        r"space is 20: give Cube\(n\), Tokens",
        r"samples is 8\.0: .*whole number",
        r"samples is 8\.0: .*whole number",
        r"samples is 'all': give a number of replacements, or 'exact'",
        r"pairs is 20\.0: .*whole number",
        r"twins is 2\.0: .*whole number",
        r"twins is 2\.0: .*whole number",
        r"f does not take torch\.float32 \(.*\): give dtype=",
        r"ids is 'To be', of type str: encode it first, model\.encode\(text\)",
        r"ids is 'To be', of type str: encode it first",
        r"ids is \[1, 2\], of type list: give torch\.tensor\(ids\)",
        r"ids is 'To be', of type str: encode it first",
        r"ids has shape \(9, 3, 128\) .* as embeddings have: .*zoo\.top_token_score\(model, ids\)",
    ]
    found = done.stdout.splitlines()
    assert len(found) == len(expected)
    for line, pattern in zip(found, expected, strict=True):
        assert re.match(pattern, line), (line, pattern)


@pytest.mark.parametrize("measure", [influences, average_sensitivity, gradient_energy])
def test_every_key_of_the_sampling_is_in_the_description(measure):
    for key in Sampling.__annotations__:
        assert f"`{key}`" in measure.__doc__
