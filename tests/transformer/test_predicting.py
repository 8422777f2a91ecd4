"""Prediction by the mean, one draw, and the average of many: against averages made by hand and Jensen's inequality."""

import pytest
import torch

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.predicting import predict

NOISY = [name for name in VARIANTS if name.startswith("v")]
CONFIG = TransformerConfig(vocabulary=11, context=9, width=12, layers=2, heads=3)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def noisy():
    """A network in double precision with weights, means and noise wide enough to matter."""

    def make(scores):
        model = NoiseFormer(CONFIG, scores, generator=seeded(0)).double()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                drawn = torch.randn(weight.shape, generator=seeded(1), dtype=torch.float64)
                if "norm" not in name:
                    weight.copy_(drawn / (4 if ".noise." in name else 2))
        return model.eval()

    return make


@pytest.mark.parametrize("name", NOISY)
def test_the_average_is_that_of_the_probabilities_of_the_draws(noisy, prompts, name, tolerances):
    model, ids = noisy(VARIANTS[name]), prompts()
    with model.noise("sample", seeded(3)):
        by_hand = torch.stack([model(ids).softmax(-1) for _ in range(5)]).mean(0).log()
    average = predict(model, ids, mode="average", draws=5, generator=seeded(3))
    torch.testing.assert_close(average, by_hand, rtol=0, atol=tolerances["exact"])
    torch.testing.assert_close(average.exp().sum(-1), torch.ones(4, 9, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (average - predict(model, ids)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NOISY)
def test_the_average_never_loses_more_than_the_mean_of_its_draws(noisy, prompts, name):
    """Jensen: -ln mean p <= mean of -ln p, for each token, whatever it is."""
    model, ids = noisy(VARIANTS[name]), prompts()
    draws = seeded(4)
    singles = torch.stack([predict(model, ids, mode="sample", generator=draws) for _ in range(6)])
    average = predict(model, ids, mode="average", draws=6, generator=seeded(4))
    assert bool((-average <= -singles.mean(0) + 1e-12).all())
    assert bool((-average < -singles.mean(0)).any())


@pytest.mark.parametrize("name", NOISY)
def test_mean_is_a_plain_call_and_sample_is_one_draw(noisy, prompts, name):
    model, ids = noisy(VARIANTS[name]), prompts()
    assert torch.equal(predict(model, ids), model(ids).log_softmax(-1))
    first, again, other = (predict(model, ids, mode="sample", generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3
    assert torch.equal(predict(model, ids, mode="average", draws=1, generator=seeded(5)), first)


@pytest.mark.parametrize("family", ["scalar", "key"])
@pytest.mark.parametrize("space", ["score", "key"])
def test_a_mean_that_is_the_same_for_all_keys_predicts_as_without_noise(noisy, prompts, family, space, tolerances):
    """Softmax does not see what is added to all scores of a row, and a constant key adds q_i . mu to all of row i."""
    model = noisy(ScoreSettings(noise=NoiseSettings(family, space=space)))
    plain = NoiseFormer(CONFIG, ScoreSettings()).double().eval()
    shared = {name: weight for name, weight in model.state_dict().items() if ".noise." not in name}
    plain.load_state_dict(shared)
    assert all(noise.mean.abs().max() > 0.1 for noise in model.noises())
    torch.testing.assert_close(predict(model, prompts()), predict(plain, prompts()), rtol=0, atol=tolerances["exact"])


def test_networks_without_noise_are_called_once_in_every_mode(prompts):
    for model in (Transformer(CONFIG, seeded(0)), NoiseFormer(CONFIG, VARIANTS["pairwise"], seeded(0))):
        calls = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        ids = prompts()
        answers = [predict(model, ids, mode=mode, draws=3) for mode in ("mean", "sample", "average")]
        assert len(calls) == 3
        assert all(torch.equal(answer, answers[0]) for answer in answers)
        assert torch.equal(answers[0], model(ids).log_softmax(-1))


def test_the_network_is_left_as_it_was(noisy, prompts):
    """A training network predicts without drawing its training noise, and trains on as if it had not been asked."""
    model, ids = noisy(VARIANTS["v2-relative"]).train(), prompts()
    state = model.get_extra_state()
    assert torch.equal(predict(model, ids), predict(model.eval(), ids))
    model.train()
    predict(model, ids, mode="average", draws=2)
    assert model.training
    assert torch.equal(model.get_extra_state(), state)
    model.eval()
    assert torch.equal(model(ids).log_softmax(-1), predict(model, ids))


def test_the_average_has_the_gradient_of_a_difference_quotient(noisy, prompts):
    model, ids = noisy(VARIANTS["v1-relative"]), prompts()[:1]
    weight = model.layers[0].attention.noise.mean

    def loss():
        return -predict(model, ids, mode="average", draws=3, generator=seeded(7))[..., 2].mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-5 * torch.eye(len(weight), dtype=torch.float64)[2]
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
    assert gradient[2].item() == pytest.approx((above - below).item() / 2e-5, rel=1e-6)


def test_wrong_modes_and_empty_averages_are_refused(noisy, prompts):
    model = noisy(VARIANTS["v2-key"])
    with pytest.raises(ValueError, match="mode is 'median': choose one of mean, sample, average"):
        predict(model, prompts(), mode="median")
    with pytest.raises(ValueError, match="draws is 0: average over at least one draw"):
        predict(model, prompts(), mode="average", draws=0)
    with pytest.raises(ValueError, match="empty sequence: give at least one token"):
        predict(model, torch.zeros(2, 0, dtype=torch.long))
