"""Score settings: every variant has its own name, and what cannot be is refused with a remedy."""

from dataclasses import replace

import pytest

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings, variant_name


def test_every_named_variant_is_another_one_and_knows_its_name():
    assert len(set(VARIANTS.values())) == len(VARIANTS)
    assert {name: variant_name(scores) for name, scores in VARIANTS.items()} == {name: name for name in VARIANTS}
    assert variant_name(None) == "standard"


def test_v1_shares_and_v2_does_not_and_a_key_noise_stands_in_key_space():
    noisy = {name: scores.noise for name, scores in VARIANTS.items() if scores.noise}
    assert {name: noise.per_head for name, noise in noisy.items()} == {name: name[1] == "2" for name in noisy}
    assert {name[3:]: noise.space for name, noise in noisy.items()} == {
        "scalar": "score",
        "key": "key",
        "relative": "score",
        "amortised": "key",
    }


def test_every_change_of_a_setting_changes_the_description():
    noise = NoiseSettings(family="amortised", space="key", rank=3)
    changed = [noise, *(replace(noise, **change) for change in CHANGES)]
    scores = [ScoreSettings(noise=each) for each in changed] + [
        ScoreSettings(kind="low-rank", rank=7),
        ScoreSettings(kind="pairwise", noise=noise),
        ScoreSettings(kind="low-rank", rank=7, noise=noise),
    ]
    names = [variant_name(each) for each in scores]
    assert len(set(names)) == len(names)
    assert not set(names) & set(VARIANTS)


CHANGES = [
    {"family": "key"},
    {"space": "score"},
    {"per_head": False},
    {"scaling": "after"},
    {"rank": 5},
    {"log_sigma": 1.5},
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "relative", "space": "key"}, r"does not know which query asks.*space='score'"),
        ({"family": "full"}, r"family is 'full': choose one of scalar, key, relative, amortised"),
        ({"space": "value"}, r"space is 'value': choose one of score, key"),
        ({"scaling": "both"}, r"scaling is 'both': choose one of before, after"),
        ({"rank": 0}, r"rank is 0: give at least 1"),
        ({"log_sigma": 2.5}, r"log_sigma is 2.5: start between -6 and 2"),
        ({"log_sigma": -7}, r"log_sigma is -7: start between -6 and 2"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NoiseSettings(**change)


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match=r"kind is 'tied': choose one of symmetric, pairwise, low-rank"):
        ScoreSettings(kind="tied")
    with pytest.raises(ValueError, match=r"rank is 0: give at least 1"):
        ScoreSettings(kind="low-rank", rank=0)
