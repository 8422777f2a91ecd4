"""What the floors agree on: functions are models, and a bad output is named at once."""

import math

import pytest
import torch

from nslab.protocols import Model, Penalty, Recorder, evaluate


def test_modules_functions_and_recorders_satisfy_the_protocols():
    class History:
        def record(self, step, /, **values):
            self.last = (step, values)

    def energy(model, x, output, /, *, generator=None):
        return output.square().mean()

    assert isinstance(torch.nn.Linear(3, 2), Model)
    assert isinstance(torch.sin, Model)
    assert isinstance(energy, Penalty)
    assert isinstance(History(), Recorder)
    assert not isinstance(energy, Recorder)
    assert not isinstance(3, Model)


def test_evaluate_returns_what_the_function_returns_with_its_gradient(device):
    layer = torch.nn.Linear(3, 2).to(device)
    x = torch.randn(5, 3, device=device)
    output = evaluate(layer, x)
    assert torch.equal(output, layer(x))
    assert output.requires_grad
    assert evaluate(lambda x: x > 0, x).dtype == torch.bool
    assert evaluate(layer, x[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: [1.0], r"model returned list: it must return a tensor of shape \(4, \.\.\.\)"),
        (lambda x: x.sum(), r"model returned shape \(\) for 4 inputs"),
        (lambda x: x[:3], r"model returned shape \(3, 2\) for 4 inputs"),
        (lambda x: x / torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None], "model returned NaN or infinity in row 2 of 4"),
        (lambda x: x * math.nan, "in row 0 of 4"),
    ],
)
def test_evaluate_names_the_function_and_the_row(f, message):
    with pytest.raises(ValueError, match=message):
        evaluate(f, torch.ones(4, 2), name="model")
