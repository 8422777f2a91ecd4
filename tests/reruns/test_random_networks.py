"""Random networks: the record holds what simulation, recursion and intervals give, and counts coverage honestly."""

import copy
import dataclasses
import math

import pytest
import torch

from nslab import records, reruns
from nslab.propagation import intervals
from nslab.propagation.causal import propagate_causal
from nslab.propagation.moments import Moments
from nslab.propagation.random_networks import simulate
from nslab.propagation.recursion import propagate
from nslab.reruns import random_networks as rn

SMALL = rn.Config(seeds=5, settings=("residual", "causal"), widths=(256,), tokens=4, layers=2, rho=(0.3, 0.9), inputs=2)
TOLERANCES = {"record": 1e-6}  # of a moment: the history is in single precision


def perform(folder, config=SMALL, resume=False):
    experiment = dataclasses.replace(reruns.load("random-networks"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def test_the_record_holds_simulation_beside_theory(tmp_path):
    record = perform(tmp_path)
    rho = torch.tensor(SMALL.rho, dtype=torch.float64)
    for number, setting in enumerate(SMALL.settings):
        shape = rn.architecture(SMALL, setting, 256)
        found = simulate(shape, rho, inputs=2, networks=5, generator=torch.Generator().manual_seed(number)).moments
        wanted = {"measured": found.moments}
        start = Moments.inputs(rho)
        wanted["predicted"] = propagate_causal(start, shape).average() if shape.causal else propagate(start, shape)
        for name, moments in wanted.items():
            series = torch.from_numpy(record.history[f"{setting}/256/{name}"][0]).double()
            torch.testing.assert_close(series, torch.stack(moments.parts()), rtol=0, atol=TOLERANCES["record"])
        gap = (found.moments.correlation - wanted["predicted"].correlation).abs().amax(-1)
        assert record.result["cells"][f"{setting}/256"]["gap"] == pytest.approx(gap.tolist())


def test_a_network_is_covered_when_nothing_of_it_is_outside(tmp_path, monkeypatch):
    """Twin: each network, moment, ratio, layer and rho on its own, beside intervals so narrow that some are outside."""
    monkeypatch.setattr(
        rn,
        "propagate_intervals",
        lambda *given, **options: intervals.propagate_intervals(*given, slack=0.12, **options),
    )
    config = dataclasses.replace(SMALL, seeds=40, settings=("residual",))
    record = perform(tmp_path, config)
    rho, shape = torch.tensor(SMALL.rho, dtype=torch.float64), rn.architecture(config, "residual", 256)
    found = simulate(shape, rho, inputs=2, networks=40, generator=torch.Generator().manual_seed(0)).moments
    bounds = intervals.propagate_intervals(Moments.inputs(rho), shape, slack=0.12)
    inside = []
    for network in range(40):
        ok = True
        for layer in (1, 2):
            for number in range(2):
                q = found.q[network, layer, number]
                for name in "moqp":
                    value = getattr(found, name)[network, layer, number]
                    for low, high, one in (
                        (bounds.low, bounds.high, value),
                        (bounds.ratios_low, bounds.ratios_high, value / q),
                    ):
                        ends = getattr(low, name)[layer, number], getattr(high, name)[layer, number]
                        ok &= bool(ends[0] - 1e-9 <= one <= ends[1] + 1e-9)
        inside.append(ok)
    told = record.result["cells"]["residual/256"]["theory"]
    assert 0 < sum(inside) < 40
    assert told["covered"] == sum(inside) / 40 == record.result["covered"]
    assert min(told["covered_by_layer"]) >= told["covered"]
    assert told["median_width"] == pytest.approx(bounds.width[1:].median(-1).values.tolist())


def test_every_setting_is_an_architecture_and_the_soft_one_has_logits_of_order_one():
    config = rn.PRESETS["laptop"]
    shapes = {setting: rn.architecture(config, setting, 256) for setting in config.settings}
    assert len(set(shapes.values())) == len(rn.SETTINGS)
    assert shapes["soft pre-norm"].score_scale == 1 / math.sqrt(256)
    assert (shapes["paper"].residual, shapes["paper"].norm, shapes["paper"].gain) == ("none", "none", 1.0)
    bounded = sum(not shape.causal for shape in shapes.values()) * len(config.widths) * config.seeds
    assert bounded >= 1000
    with pytest.raises(ValueError, match=r"settings has 'post-norm': choose from paper, identity"):
        rn.architecture(config, "post-norm", 256)


def test_a_run_cut_between_two_settings_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = perform(tmp_path / "whole")
    cell = rn.cell

    def cut(config, shape, number, device):
        if number:
            raise KeyboardInterrupt
        return cell(config, shape, number, device)

    with monkeypatch.context() as patch:
        patch.setattr(rn, "cell", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut")
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_what_is_no_phenomenon_is_said():
    cells = {
        "residual/256": {"gap": [0.0, 0.02], "theory": {"covered": 1.0}},
        "damped/256": {"gap": [0.0, 0.2], "theory": {"covered": 0.5}},
    }
    for one in cells.values():
        one |= {"raw": [[0.3], [0.4], [0.1]], "correlation": [[0.3], [0.4], [0.6]]}
    assert rn.phenomenon({"cells": cells}) is None
    for change, said in [
        ({"residual/256": {"gap": [0.0, 0.04]}}, "recursion within 0.03 .* it is 0.040 off"),
        ({"residual/256": {"theory": {"covered": 0.98}}}, "99% of the networks in the interval; it holds 98.0%"),
        ({"damped/256": {"raw": [[0.3], [0.4], [0.5]]}}, "raw stability that dies while the correlation rises"),
        ({"damped/256": {"correlation": [[0.3], [0.4], [0.3]]}}, "raw stability that dies while"),
    ]:
        worse = copy.deepcopy(cells)
        for name, values in change.items():
            worse[name] |= values
        with pytest.raises(AssertionError, match=said):
            assert not rn.phenomenon({"cells": worse}), rn.phenomenon({"cells": worse})
