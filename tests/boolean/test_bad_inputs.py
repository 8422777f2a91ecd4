"""Every refusal names the argument, its value and the remedy."""

import math

import pytest
import torch

from nslab import boolean as bf

F = bf.majority(3)


def first(x):
    return x[:, 0]


CASES = [
    # call, words of the message: the argument with its value, then the remedy
    (lambda: bf.spectrum(torch.ones(6)), r"f has shape \(6,\).*boolean.table"),
    (lambda: bf.level_weights(torch.ones(2, 3)), r"shape \(2, 3\).*2\*\*n"),
    (lambda: bf.stability(F, 1.5), r"rho = 1.5 is outside \[-1, 1\].*correlation"),
    (lambda: bf.stability(F, torch.tensor([0.5, -2.0])), r"rho = -2 is outside"),
    (lambda: bf.stability(F, float("nan")), r"rho = nan"),
    (lambda: bf.noise_operator(F, -1.01), r"rho = -1.01"),
    (lambda: bf.flip_influences(F / 2), r"f holds the value 0.5.*torch.where"),
    (lambda: bf.sensitivity(torch.tensor([1.0, 0.0])), r"f holds the value 0.*±1"),
    (lambda: bf.max_sensitivity(2 * F), r"f holds the value 2"),
    (lambda: bf.junta_distance(F + 1, 1), r"f holds the value 2"),
    (lambda: bf.junta_distance(F.expand(2, 8), 1), r"f has shape \(2, 8\).*loop over the batch"),
    (lambda: bf.friedgut_junta(F.expand(2, 8), 0.1), r"f has shape \(2, 8\).*loop over the batch"),
    (lambda: bf.junta_distance(F, 4), r"k = 4 is outside 0 \.\. n = 3"),
    (lambda: bf.best_junta(F, [0, 3]), r"relevant = \(0, 3\).*n - 1 = 2"),
    (lambda: bf.friedgut_junta(F, 0), r"eps = 0 must be positive"),
    (lambda: bf.friedgut_bound(-1.0, 0.1), r"influence = -1.0 is negative.*total_influence"),
    (lambda: bf.friedgut_bound(1.0, -0.1), r"eps = -0.1 must be positive"),
    (lambda: bf.points(25), r"n = 25.*n <= 24.*sampl"),
    (lambda: bf.majority(-1), r"n = -1 is negative"),
    (lambda: bf.table(first, 30), r"n = 30.*sampling.*sampled_stability"),
    (lambda: bf.table(lambda x: x[:1, 0], 3), r"f returned shape \(1,\)"),
    (lambda: bf.table(lambda x: x[:, 0] / 0, 3), r"f returned NaN or infinity"),
    (lambda: bf.weighted_threshold([1] * 25), r"number of weights = 25.*threshold_stability"),
    (lambda: bf.majority(4), r"n = 4 is even.*weighted_threshold"),
    (lambda: bf.dictator(3, 3), r"i = \(3,\).*0 to n - 1 = 2"),
    (lambda: bf.parity(3, [1, 1]), r"subset = \(1, 1\).*distinct"),
    (lambda: bf.tribes(0, 3), r"width = 0 must be positive"),
    (lambda: bf.tribes(5, 5), r"width \* count = 25.*sampling"),
    (lambda: bf.address(0), r"k = 0 must be positive"),
    (lambda: bf.address(5), r"k \+ 2\*\*k = 37"),
    (lambda: bf.iterated_majority(-1), r"depth = -1"),
    (lambda: bf.iterated_majority(3), r"fan_in\*\*depth = 27"),
    (lambda: bf.junta(4, [0, 1], F), r"core has 8 values: 2 relevant bits need 4"),
    (lambda: bf.biased_mean(F, 0.0), r"p = 0 is outside \(0, 1\).*P\[x_i = -1\]"),
    (lambda: bf.biased_spectrum(F, 1.2), r"p = 1.2 is outside"),
    (lambda: bf.biased_influences(F, torch.tensor([0.5, 0.5])), r"p has shape \(2,\).*n = 3"),
    (lambda: bf.biased_stability(F, -0.9, 0.1), r"rho = -0.9 is below -0.111.*larger rho"),
    (lambda: bf.threshold_influences(torch.tensor([1.5, 1.0])), r"weights holds 1.5.*multiply"),
    (lambda: bf.threshold_influences([10**8, 1, 1]), r"n \* T = .*divide the weights"),
    (lambda: bf.threshold_stability([10**5, 1], 0.5), r"T = 100001.*divide the weights"),
    (lambda: bf.threshold_stability([1, 1], 2), r"rho = 2 is outside"),
    (lambda: bf.threshold_distribution(torch.ones(2, 2)), r"weights has shape \(2, 2\)"),
    (lambda: bf.sampled_mean(first, 3), r"samples=None and stderr=None"),
    (lambda: bf.sampled_mean(first, 3, samples=0), r"samples is 0"),
    (lambda: bf.sampled_mean(first, 0, samples=10), r"n = 0 must be positive"),
    (lambda: bf.sampled_mean(lambda x: x, 3, samples=10), r"f returned shape \(10, 3\).*select an output"),
    (lambda: bf.sampled_influences(first, 3, [3], samples=10), r"relevant = \(3,\)"),
    (lambda: bf.sampled_stability(first, 3, 1.1, samples=10), r"rho = 1.1"),
    (lambda: bf.sampled_stability(first, 3, 0.5, samples=1), r"samples is 1: .*at least 2"),
    (lambda: bf.sampled_influences(lambda x: x[1:, 0], 3, samples=10), r"f returned shape \(9,\) for 10 inputs"),
    (lambda: bf.sampled_total_influence(lambda x: x[:, 0] * math.nan, 3, samples=10), r"f returned NaN or infinity"),
    (lambda: bf.sampled_mean(lambda x: x[:, 0] * 1j, 3, samples=10), r"f returned dtype torch.complex64.*\.real"),
    (lambda: bf.table(lambda x: x, 3), r"f returned shape \(8, 3\).*select an output"),
    (lambda: bf.table(first, 3, batch_size=0), r"batch_size = 0 must be positive"),
    (lambda: bf.biased_stability(F, 1.1, 0.3), r"rho = 1.1 is outside"),
    (lambda: bf.friedgut_bound(math.nan, 0.1), r"influence = nan"),
    (lambda: bf.weighted_threshold([1.0, math.inf]), r"weights holds inf, which is not finite"),
    (lambda: bf.weighted_threshold([1, 1], math.nan), r"bias holds nan, which is not finite.*votes to exceed"),
    (lambda: bf.threshold_influences(torch.tensor([1.0, math.inf])), r"weights holds inf"),
    (lambda: bf.threshold_influences([1, 1], math.inf), r"bias holds inf"),
    (lambda: bf.threshold_outcomes([1, 1], math.nan), r"bias holds nan"),
    (lambda: bf.threshold_stability([1, 1], 0.5, math.nan), r"bias holds nan"),
    (lambda: bf.threshold_outcomes([10**10]), r"T = 10000000000.*divide the weights"),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_refused_by_name_with_value_and_remedy(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: bf.majority(3, dtyp=torch.float64),
        lambda: bf.weighted_threshold([1, 1, 1], devise="cpu"),
        lambda: bf.address(1, dtyp=torch.float64),
        lambda: bf.random(3, devise="cpu"),
        lambda: bf.sampled_mean(lambda x: x[:, 0], 3, samples=10, generater=None),
    ],
)
def test_a_misspelt_keyword_is_refused(call):
    with pytest.raises(TypeError, match=r"unexpected argument '(dtyp|devise|generater)': (a table|sampling) has "):
        call()
