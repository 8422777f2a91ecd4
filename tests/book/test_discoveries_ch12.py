"""Each figure of chapter 12 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from nslab.barrier.process import next_token_area

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch12-support-tokens")


def test_the_danger_lies_between_the_tokens(names):
    curve = np.array(names["guess"].state["curve"])
    middle = len(curve) // 2
    assert curve.argmin() == middle
    assert curve[middle] == pytest.approx(-1)
    assert min(curve[0], curve[-1]) > 0.8


def test_a_street_opens_between_four_and_nowhere_below(names):
    twin, state = names["street"].twin, {**names["street"].state, "grid": 61}
    assert twin(state)["beyond"] == 0
    assert twin({**state, "strength": 1.1})["beyond"] > 0
    moved = twin({**state, "strength": 1.1, "past": [[1.0, 0.0], [3.0, 0.0]]})
    assert torch.tensor(moved["determinants"])[:, 30].max() < 0, "it runs through the origin"
    widths = [twin({**state, "strength": beta})["street"]["width"] for beta in (1.1, 1.7, 4.0)]
    assert widths[0] < widths[1] > widths[2]
    assert max(widths) < 0.45 * 2
    assert twin({**state, "strength": 4.0, "turn": 90.0})["lowest"] == pytest.approx(1)
    assert twin({**state, "strength": 4.0, "turn": 120.0})["lowest"] > 1
    kappas = [twin({**state, "turn": turn})["street"]["kappa"] for turn in (0.0, 60.0)]
    assert kappas[1] == pytest.approx(kappas[0] / 2)


def test_the_widest_street(names):
    kappa = np.linspace(4.001, 30, 20000)
    widths = 4 * np.arccosh(np.sqrt(kappa) / 2) / kappa
    assert names["relative_width"].max().item() == pytest.approx(widths.max(), abs=1e-6)
    assert names["kappas"][names["relative_width"].argmax()].item() == pytest.approx(kappa[widths.argmax()], abs=0.01)


def test_three_tokens_bend_the_kerbs_and_make_an_island(names):
    twin, state = names["plane"].twin, {**names["plane"].state, "grid": 61}
    cold = twin({**state, "strength": 3.0, "query": [0.0, 0.0]})
    assert cold["determinant"] > 1
    assert cold["lowest"] < -1
    signs = torch.tensor(cold["determinants"]) < 0
    assert signs[0].any(), "a street reaches the lower edge"
    diameter = np.hypot(1.2, 2.1)
    assert 0.6 < 4 / diameter**2 < 0.7, "the promise ends between two steps of the slider"
    assert [twin({**state, "strength": beta, "grid": 121})["beyond"] > 0 for beta in (0.6, 0.7)] == [False, True]
    inside = twin({**state, "strength": 3.0, "past": [*state["past"], [0.1, 0.0]]})
    assert ((torch.tensor(inside["determinants"]) < 0) != signs).double().mean() < 0.02, "a token inside changes little"


def test_at_the_kerb_the_gain_grows_and_the_mean_keeps_pace(names):
    """Along x on the lower street of the triangle: bisect to the kerb."""
    twin, state = names["plane"].twin, {**names["plane"].state, "grid": 2}

    def at(x):
        return twin({**state, "query": [x, -1.5]})

    low, high = 0.0, 2.0
    assert at(low)["determinant"] < 0 < at(high)["determinant"]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)["determinant"] < 0 else (low, middle)
    kerb, away = at(high + 1e-6), at(high + 0.8)
    assert kerb["spectral"] < 1e-5
    assert kerb["spectral"] < away["spectral"] / 1e4
    assert np.linalg.norm(np.subtract(kerb["direction"], kerb["follows"])) < 1e-5
    assert np.linalg.norm(np.subtract(away["direction"], away["follows"])) > 0.1


def test_a_step_along_v_is_seen_further_out_only(names):
    edge = torch.tensor([math.acosh(2**0.5) / 2, 0.3], dtype=torch.float64)
    past, scores = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)

    def residual(u):
        return u - (past @ scores @ u).softmax(0) @ past

    seen = [(residual(u + torch.tensor([0.01, 0.0])) - residual(u)).norm() for u in (edge, edge + 0.46)]
    assert seen[0] < 3e-4
    assert seen[1] > 7e-3


def test_the_cloud_fills_the_ellipse_away_from_the_boundary_only(names):
    """The figure divides tokens by what is promised, 1/(1 - β) times the noise; at β < 1 each has one solution."""
    figure, draws = names["clouds"], names["DRAWS"].numpy()

    def share(beta, sigma):
        cloud = figure.data(beta=beta, sigma=sigma)["tokens"]
        x = cloud[:, 0] * sigma / (1 - beta)
        np.testing.assert_allclose(x - np.tanh(beta * x), sigma * draws[:, 0], atol=1e-9)
        return cloud.std(0, ddof=1) / draws.std(0, ddof=1)

    assert share(0.5, 0.01)[0] == pytest.approx(1, abs=0.01)
    assert share(0.8, 0.01)[0] == pytest.approx(1, abs=0.02)
    assert 100 * share(0.99, 0.01)[0] == pytest.approx(27, abs=0.5)
    assert 100 * share(0.99, 0.3)[0] < 4
    assert max(share(0.99, sigma)[0] for sigma in names["SIGMAS"]) < 0.3, "no noise on the slider is small enough"
    assert share(0.99, 0.3)[1] == pytest.approx(1), "nothing is magnified across"
    ellipse = figure.data(beta=0.99, sigma=0.01)["promised"]
    np.testing.assert_allclose(np.hypot(*ellipse.T), 2)


def test_only_the_eigen_margin_sees_that_the_island_is_beyond():
    """Corners of the triangle with equal weights: the covariance is diagonal."""
    corners = np.array([[0.0, 1.3], [-1.2, -0.8], [1.2, -0.8]])
    spread = np.linalg.eigvalsh(np.cov(corners.T, bias=True))
    before, island = (1 - beta * spread for beta in (0.5, 3.0))
    assert island.prod() > before.prod() > 0
    assert abs(island).min() > before.min() > 0
    assert island.min() < 0


def test_one_ruler_at_width_one_and_two_beyond(names):
    def ranks(values):
        return np.argsort(np.argsort(values))

    correlation, common = {}, {}
    for width in (1, 2, 8, 32):
        for beta in (0.3, 0.6, 1.0):
            x, y = names["rulers"].data(width=width, beta=beta)["tokens"].T
            correlation[width, beta] = np.corrcoef(ranks(x), ranks(y))[0, 1]
            common[width, beta] = len(set(x.argsort()[:6]) & set(y.argsort()[:6]))
            if width == 1:
                np.testing.assert_allclose(x, y, atol=1e-9)
    assert min(correlation[1, beta] for beta in (0.3, 0.6, 1.0)) == pytest.approx(1)
    assert all(correlation[width, 0.3] < 0.95 for width in (2, 8, 32))
    assert all(0.65 < correlation[32, beta] < 0.85 for beta in (0.3, 0.6, 1.0))
    assert common[32, 0.3] == 2
    typical = [np.median(names["rulers"].data(width=width, beta=1.0)["tokens"][:, 0]) for width in (1, 8, 32)]
    assert typical[0] > -1 > typical[1] > -2 > typical[2]


def test_the_certified_interval_holds_no_boundary_and_is_careful(names):
    for a in names["STRENGTHS"]:
        for u in names["STANDS"]:
            data = names["radius"].data(a=a, u=u)
            low, high = data["certified"][:, 0]
            if a > 1:
                kerbs = data["boundary"][:, 0]
                assert not ((low < kerbs) & (kerbs < high)).any()
                assert (high - low) / 2 < 0.6 * abs(kerbs - u).min()
            else:
                assert "boundary" not in data
                assert high - low < 4
    inside = names["radius"].data(a=2.0, u=0.2)
    assert inside["query"][0, 1] < 0
    assert np.ptp(inside["certified"][:, 0]) > 0


def test_the_first_two_letters_are_neutral_and_heads_have_favourites(names):
    figure = names["letters"]
    for beta in names["RIBBON_BETAS"]:
        for head in ("all", "0.0", "3.3"):
            assert (figure.data(beta=beta, head=head)["bars"][:2] == 0).all()
    favourites = names["FIRST"][..., names["AT_ONE"]].flatten().tolist()
    assert len(set(favourites)) >= 9, "of sixteen heads"
    supports = [2 + int(names["barrier_of"]("all", beta)[0][2:].argmax()) for beta in names["RIBBON_BETAS"]]
    assert len(set(supports)) == len(supports)
    figures = [np.sort(figure.data(beta=beta, head="all")["bars"]) for beta in (1.0, 2.0)]
    growth = figures[1] - figures[0]
    assert growth[-14:].mean() > growth[:-14].mean(), "most of all where they are tall already"
    crossed = [(names["barrier_of"]("all", beta)[1] < 0).sum().item() for beta in names["RIBBON_BETAS"]]
    assert crossed[0] == crossed[1] == 0 < crossed[-1]
    bars = [figure.data(beta=beta, head="all")["bars"].sum() for beta in names["RIBBON_BETAS"]]
    assert sorted(bars) == bars


def test_the_ranking_changes_with_the_temperature_but_not_at_random(names):
    kept = dict(zip(names["RIBBON_BETAS"], names["KEPT"], strict=True))
    assert kept[1.0] == pytest.approx(1)
    assert 0.5 < kept[0.25] < kept[2.0] < 0.98
    assert names["CHANGED"] > 8


def test_no_kind_of_letter_leads_on_average_but_heads_specialise(names):
    closest = names["closest"]
    assert (closest.mean((0, 1)) - 0.1).abs().max() < 0.05
    best = closest.flatten(0, 1).max(0).values
    kinds = dict(zip(names["KINDS"], best.tolist(), strict=True))
    lines, kind = names["LINES"], names["kind"]
    counts = Counter(kind(line, i) for line in lines for i in range(2, len(line)))

    def chance(name):
        """That the largest of sixteen shares is at least so large where each letter is close with the same chance."""
        hits = round(kinds[name] * counts[name])
        one = sum(math.comb(counts[name], k) * 0.107**k * 0.893 ** (counts[name] - k) for k in range(hits))
        return 1 - one**16

    assert [chance(name) < 0.01 for name in names["KINDS"]] == [True, False, False, True, False]
    favourites = closest.flatten(0, 1).argmax(0)
    assert favourites[names["KINDS"].index("space")] != favourites[names["KINDS"].index("vowel")]


def test_the_two_rulers_agree_little_in_a_real_network(names):
    agreement = names["agreement"]
    assert agreement.min() < 0
    assert agreement.max() < 0.8


def test_no_head_is_safe_by_the_promise(names):
    """What is said of it is computed; here, that the bound is one: no determinant below what it would promise."""
    loads = names["LOADS"]
    assert loads.shape == names["found"][0].sign.shape[:2]
    assert loads.min() > 1


def test_what_the_record_says_is_what_its_intervals_say(names):
    for name, record in names["HELD"].items():
        told = record.result["models"][name]["correlations"]["given_position"]
        for against in ("replaced", "noise", "entropy"):
            said = names["one_verdict"](name, against)
            intervals = {asked: told[asked][against] for asked in ("barrier", "gain")}
            open_ = {asked: one["low"] <= 0 <= one["high"] for asked, one in intervals.items()}
            assert ("no link to be seen" in said) == all(open_.values())
            for asked, interval in intervals.items():
                assert (f"the {asked} goes with it" in said) == (interval["low"] > 0)
                assert (f"the {asked} goes *against* it" in said) == (interval["high"] < 0)
    if names["LARGE"] is None:
        assert "nslab rerun token-margins" in names["whence"]()


def test_words_of_the_larger_model_are_neutral_at_first_too(names):
    figure = names["words"]
    if figure is None:
        assert names["LARGE"] is None
        return
    sentence, beta = figure.controls
    supports = {}
    for one in sentence.values:
        for b in beta.values:
            frame = figure.frame(sentence=one, beta=b)
            assert (np.abs(frame.data["bars"][:2]) < 1e-3).all()
            supports.setdefault(one, set()).add(frame.alt.split(" has the largest")[0].split("pieces ")[1])
    assert any(len(found) > 1 for found in supports.values()), "it may change with β"


def test_margin_times_force_is_the_weight_and_one_force_dies(names):
    figure = names["path"]
    for weight in names["WEIGHTS"]:
        data = figure.data(weight=weight)
        np.testing.assert_allclose(data["margin m"] * data["force ν"], weight)
        best, value = data["best score"][0]
        assert value >= data["a + λ Σ log m"][:, 1].max() - 1e-9
        np.testing.assert_allclose(data["margin m"], [1 - best / 2, 1 - best / 4], atol=1e-12)
    least, most = (figure.data(weight=weight) for weight in (0.001, 1.0))
    assert least["force ν"] == pytest.approx([2, 0], abs=0.005)
    assert least["margin m"] == pytest.approx([0, 0.5], abs=0.002)
    assert least["best score"][0, 0] > most["best score"][0, 0]


def test_only_the_causal_law_is_consistent(names):
    gaps = names["GAPS"]
    assert gaps["causal"] < 1e-12
    assert min(gap for name, gap in gaps.items() if name != "causal") > 0.01


def test_the_third_tokens_mass_is_above_one_for_every_noise(names):
    """Z is 1 up to a distance of 2; its mean over distances is never 1. Against a Monte Carlo of the distances."""
    masses = []
    for sigma in names["NOISES"]:
        data = names["total_mass"].data(sigma=sigma)
        distance, area = data["mean Z"].T
        np.testing.assert_allclose(area[distance <= 2], 1)
        assert (np.diff(area[distance >= 2]) >= -1e-3).all()
        assert 1.2 < area[-1] < 2
        masses.append(names["MASSES"][sigma][2])
    assert masses[0] > 1
    assert sorted(masses) == masses
    assert masses[1] < 1.001
    assert masses[-2] == pytest.approx(1.15, abs=0.005)
    noise = 3 * torch.randn(3000, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    area = torch.cat([next_token_area(past, torch.ones(1, 1).double(), 3.0) for past in noise.cumsum(1).split(300)])
    error = area.std() / len(area) ** 0.5
    assert error < 0.01
    assert abs(area.mean() - names["MASSES"][3.0][2]) < 4 * error
