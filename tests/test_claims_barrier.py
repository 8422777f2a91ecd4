"""Checks about the probabilistic view of attention: right formulas pass, wrong ones are seen."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.special import erf

from nslab.barrier.blocks import full_jacobian, jacobian_blocks
from nslab.barrier.density import log_density
from nslab.barrier.process import AttentionWords, next_token_area
from nslab.barrier.stability_margins import block_margins
from nslab.barrier.two_tokens import slab
from nslab.claims import State
from nslab.claims import checks_2602_22271 as checks
from nslab.claims import checks_2602_22271_training as on_records

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN


def without_jacobian(u, scores, sigma):
    return log_density(u, scores, sigma, jacobian=False)


def other_sign(u, scores):
    return 2 * torch.eye(u.shape[-1], dtype=u.dtype) - jacobian_blocks(u, scores)


def slab_from(kappa):
    """The slab with another least kappa."""

    def formula(first, second, scores):
        found = slab(first, second, scores)
        return replace(found, kappa=found.kappa * 4 / kappa)

    return formula


def deaf(causal=True, from_end=False, **weights):
    """Words that do not know the final length, whatever they are told."""
    return AttentionWords(**weights)


@pytest.mark.parametrize(
    ("check", "state", "wrong"),
    [
        (
            checks.probabilistic_reading,
            CHANGED,
            [
                {"density": without_jacobian},
                {"density": lambda *given: 2 * log_density(*given) - without_jacobian(*given)},
                {"density": lambda u, scores, sigma: log_density(u, scores.mT, sigma)},
            ],
        ),
        (
            checks.jacobian_term,
            CHANGED,
            [{"blocks": other_sign}, {"blocks": lambda u, scores: jacobian_blocks(u, scores.mT / 2)}],
        ),
        (
            checks.previous_query,
            HOLD,
            [
                {"jacobian": lambda u, scores, query: full_jacobian(u, scores)},
                {"jacobian": lambda u, scores, query: full_jacobian(u, scores, query="previous")},
            ],
        ),
        (
            checks.counts_preimages,
            HOLD,
            [
                {"formula": lambda a, sigma: torch.ones(5, 3).double()},
                {"formula": lambda a, sigma: (1 + checks.expected_preimages(a, sigma)) / 2},
            ],
        ),
        (
            checks.degeneracy_boundary,
            CHANGED,
            [
                {"formula": slab_from(2)},
                {"formula": slab_from(8)},
                {"formula": lambda *given: replace(slab(*given), offset=1.01 * slab(*given).offset)},
                {"formula": lambda *given: replace(slab(*given), width=slab(*given).width / 2)},
            ],
        ),
        (
            checks.consistent_process,
            CHANGED,
            [
                {"kernel": partial(AttentionWords, causal=False)},
                {"kernel": deaf},
                {"area": lambda past, scores, sigma: torch.ones(len(past)).double()},
                {"area": lambda past, scores, sigma: next_token_area(past, 2 * scores, sigma)},
            ],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_check_holds_and_sees_a_wrong_formula(check, state, wrong):
    assert check().state is state
    for change in wrong:
        assert check(**change).state is OPEN, change


def preimages(a, sigma):
    """Z in closed form."""
    critical = (1 - 1 / a) ** 0.5 - torch.acosh(torch.tensor(a).double().sqrt()).item() / a
    return 1 + 2 * erf(critical / (sigma * 2**0.5))


def test_numbers_of_the_checks_are_those_of_closed_forms():
    assert checks.counts_preimages().numbers["largest"] == pytest.approx(preimages(4, 0.25), abs=1e-5)
    assert checks.consistent_process().numbers["beyond"] == pytest.approx(preimages(6, 0.5), abs=1e-4)
    assert checks.degeneracy_boundary().numbers["least_below_4"] == pytest.approx(1 - 3.99 / 4)
    assert checks.jacobian_term().numbers["last"] == pytest.approx(9 * torch.tensor(10.0).log().item(), rel=1e-6)
    past, scores = torch.tensor(checks.LINE).double(), torch.tensor([[0.8 * 5 * 4 / 1.6**2]]).double()
    beyond = checks.probabilistic_reading().numbers["beyond"]
    assert beyond == pytest.approx(float(next_token_area(past, scores, checks.SIGMA)), abs=1e-4)


# Margins, on random sequences and on a record of trained heads


def heads(near=0.01, high=0.4, gain=0.2):
    """A toy record of the heads of trained models."""
    correlations = {
        key: {"noise": {"value": gain, "low": gain - 0.05, "high": gain + 0.05}} for key in on_records.PREDICTORS
    }
    model = {
        "near": near,
        "crossed": 0.002,
        "agreement": {"low": -0.1, "median": 0.2, "high": high},
        "correlations": {"given_position": correlations},
        "sentences": [{"closest": [{"margin": 0.9}, {"margin": margin}]} for margin in (0.02, 0.31)],
    }
    return {"config": {"temperature": [0.5, 1.0]}, "models": {"toy-gpt": model}}


def scaled(factor):
    return {"distance": lambda blocks: factor * block_margins(blocks).spectral}


def test_the_smallest_singular_value_is_the_distance_to_the_boundary():
    verdict = on_records.support_tokens(heads())
    assert verdict.state is CHANGED
    assert "`toy-gpt`: 0.02 to 0.31; it is below a half for 1.00 %" in verdict.evidence
    assert on_records.support_tokens(heads(near=0.0)).state is OPEN, "no token comes near"
    for wrong in (scaled(0.9), scaled(1.01), {"distance": lambda blocks: block_margins(blocks).determinant}):
        assert on_records.support_tokens(heads(), **wrong).state is OPEN


def altered(**parts):
    """Margins of which some parts are others."""

    def margins(blocks):
        found = block_margins(blocks)
        return replace(found, **{name: part(found) for name, part in parts.items()})

    return {"margins": margins}


def test_determinants_and_singular_values_name_different_support_tokens():
    verdict = on_records.margin_is_not_conditioning(heads())
    assert verdict.state is HOLD
    assert verdict.numbers["slack"] < 1
    assert "`toy-gpt` 0.20 (-0.10 to 0.40)" in verdict.evidence
    assert on_records.margin_is_not_conditioning(heads(high=1.0)).state is OPEN
    wrong = (
        altered(determinant=lambda found: found.spectral),
        altered(determinant=lambda found: 1e6 * found.determinant),
    )
    for change in wrong:
        assert on_records.margin_is_not_conditioning(heads(), **change).state is OPEN
