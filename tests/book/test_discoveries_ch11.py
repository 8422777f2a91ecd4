"""Each figure of chapter 11 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch11-barrier")


def opinions(frame):
    return np.unique(frame["opinions"][:, 0].round(6))


def test_one_opinion_becomes_three_at_one_and_the_middle_one_has_a_negative_determinant(names):
    figure = names["opinion"]
    for a in figure.controls[0].values:
        for whim in figure.controls[1].values:
            frame = figure.data(a=a, whim=whim)
            found = opinions(frame)
            np.testing.assert_allclose(found, np.tanh(a * found) + whim, atol=1e-5)
            determinants = frame["at the opinions"][:, 1]
            np.testing.assert_allclose(determinants, 1 - a / np.cosh(a * frame["opinions"][:, 0]) ** 2, atol=1e-9)
            if whim == 0:
                assert len(found) == (1 if a <= 1 else 3)
            if len(found) == 3:
                assert determinants[1] < 0 < min(determinants[0], determinants[2])
    assert len(opinions(figure.data(a=1.2, whim=0.1))) == 1, "a larger whim needs a choosier Anna"
    touching = figure.data(a=2.0, whim=names["TOUCH"])
    assert np.abs(touching["at the opinions"][:2, 1]).max() < 1e-3
    assert touching["at the opinions"][2, 1] > 0.9
    assert figure.data(a=1.0, whim=0.0)["at the opinions"][0, 1] == pytest.approx(0, abs=1e-9)
    assert "touch" in figure.frame(a=2.0, whim=names["TOUCH"]).alt


def test_the_area_is_one_until_a_is_one(names):
    drawn = names["area"].state
    x, curve = np.array(drawn["x"]), np.array(drawn["curve"])
    assert (curve[x <= 1] == 1).all()
    assert (np.diff(curve[x >= 1]) > 0).all()
    for a in (0.5, 2.0, 4.0):
        found = integrate.quad(
            lambda u, a=a: (
                math.exp(-2 * (u - math.tanh(a * u)) ** 2) / math.sqrt(math.pi / 2) * abs(1 - a / math.cosh(a * u) ** 2)
            ),
            -6,
            6,
            limit=300,
            points=[-1, -0.5, 0.5, 1],
        )[0]
        assert np.interp(a, x, curve) == pytest.approx(found, abs=1e-4)
    twin, grid = names["area"].twin, np.linspace(x[0], x[-1], 61)
    for name, heights in [("truth", curve)] + [(one["name"], one["y"]) for one in drawn["distractors"]]:
        state = {**drawn, "drawn": np.interp(grid, x, heights).tolist()}
        assert twin(state)["nearest"] == name


def test_the_signed_area_stays_one_and_small_whims_count_more(names):
    areas = names["areas"]
    figure = names["counting"]
    for sigma in (0.25, 0.5, 1.0):
        for a in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
            whole, signed = areas(a, sigma)
            assert signed == pytest.approx(1, abs=1e-5)
            assert whole == pytest.approx(names["expected_preimages"](a, sigma).item(), abs=1e-4)
            assert (whole > 1 + 1e-4) == (a > 1)
            assert figure.data(a=a, sigma=sigma)["φ(e(u)) |det|"][:, 1].max() < 0.9, "inside the axes"
    assert areas(2.0, 0.25)[0] > areas(2.0, 0.5)[0] > areas(2.0, 1.0)[0]
    assert "1.812" in figure.frame(a=2.0, sigma=0.5).alt


def test_the_mean_barrier_is_the_entropy_that_reading_adds():
    a, sigma = 0.8, 0.5

    def density(u):
        noise = u - math.tanh(a * u)
        slope = 1 - a / math.cosh(a * u) ** 2
        return math.exp(-(noise**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi)) * slope

    def mean(function):
        return integrate.quad(lambda u: density(u) * function(u), -6, 6)[0]

    entropy = mean(lambda u: -math.log(density(u)) if density(u) else 0.0)
    barrier = mean(lambda u: -math.log(1 - a / math.cosh(a * u) ** 2))
    assert entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e * sigma**2) + barrier, abs=1e-6)


def test_the_blocks_are_what_autodiff_finds(names):
    torch.testing.assert_close(names["on_diagonal"], names["blocks"], atol=1e-12, rtol=0)
    assert names["whole"].item() == pytest.approx(torch.linalg.slogdet(names["blocks"]).logabsdet.sum().item())
    above = [names["derivatives"][i, :, j] for i in range(6) for j in range(i + 1, 6)]
    assert torch.stack(above).abs().max() == 0


def test_own_query_previous_query_and_itself(names):
    figure = names["query"]
    width, tokens = names["WIDTH"], names["TOKENS"]
    for strength in figure.controls[1].values:
        for asked in names["ASKED"]:
            jacobian, logs = names["parts"](asked, strength)
            cut = jacobian.reshape(tokens, width, tokens, width)
            assert all(cut[i, :, j].abs().max() == 0 for i in range(tokens) for j in range(i + 1, tokens))
            assert (jacobian.abs() > 0).any()
            if asked == "own":
                assert logs[:2].abs().max() < 1e-12, "the first two have no barrier"
                assert (logs[2:].abs().max() > 1e-3) == (strength > 0)
            if asked == "previous":
                assert logs.abs().max() == 0
                torch.testing.assert_close(
                    torch.stack([cut[i, :, i] for i in range(tokens)]), torch.eye(3).double().expand(5, 3, 3)
                )
            if asked == "own, and itself":
                assert logs[0] == -math.inf
    bars = figure.data(asked="own, and itself", strength=0.0)["log |det|"]
    np.testing.assert_allclose(bars[1:], [3 * math.log(1 - 1 / i) for i in range(2, 6)], atol=1e-12)
    assert bars[0] == names["FLOOR"], "cut off at the axes"
    assert "Together 0.00" in figure.frame(asked="previous", strength=1.5).alt
    assert "Together −∞" in figure.frame(asked="own, and itself", strength=1.0).alt
    lowest = min(names["parts"](asked, 1.5)[1][1:].min().item() for asked in names["ASKED"])
    assert lowest > names["FLOOR"], "no bar but the first is cut off"
    assert names["parts"]("own", 1.0)[1].min() < -1, "a barrier that can be seen"


def test_the_determinant_of_a_token_that_sees_itself_has_the_factor_of_the_prose(names):
    u, scores = names["SEQUENCE"], names["SCORE"]
    for i in range(1, len(u)):

        def strict(x, i=i):
            return x - (u[:i] @ scores @ x).softmax(-1) @ u[:i]

        def own_weight(x, i=i):
            return (torch.cat([u[:i], x[None]]) @ scores @ x).softmax(-1)[-1]

        jacobian = torch.func.jacrev(lambda x, i=i: (1 - own_weight(x, i)) * strict(x, i))(u[i])
        found = torch.linalg.slogdet(jacobian).logabsdet
        assert found.item() == pytest.approx(names["parts"]("own, and itself", 1.0)[1][i].item(), abs=1e-9)


def test_valleys_come_with_a_shade_and_the_middle_of_three_has_a_positive_determinant(names):
    figure = names["landscape"]
    counts = {}
    for past, tokens in names["PASTS"].items():
        for beta in figure.controls[1].values:
            valleys = figure.data(past=past, beta=beta)["valleys"]
            counts[past, beta] = len(valleys)
            slopes = names["hopfield_gradient"](torch.tensor(valleys), tokens, beta)
            assert slopes.abs().max() < 1e-3
            bends = torch.linalg.eigvalsh(names["hopfield_hessian"](torch.tensor(valleys), tokens, beta))
            assert (bends > 0).all(), "curved up in every direction"
            if not (names["bent_down"](tokens, beta) > 0).any():
                assert len(valleys) == 1
    betas = figure.controls[1].values
    assert [counts["two", beta] for beta in betas] == [1] + 6 * [2]
    assert [counts["three", beta] for beta in betas] == [1, 1, 1, 4, 3, 3, 3]
    three = names["PASTS"]["three"]
    assert (names["bent_down"](three, 1.6) > 0).any(), "the shade comes first"
    middle = names["hopfield_hessian"](torch.zeros(2).double(), three, 6.0)
    assert (torch.linalg.eigvalsh(middle) < 0).all()
    assert torch.linalg.det(middle) > 0


def test_where_there_is_a_shade_some_noise_tilts_the_landscape_into_two_valleys(names):
    three, beta = names["PASTS"]["three"], 1.6
    bend = torch.linalg.eigvalsh(names["hopfield_hessian"](names["PLANE"], three, beta))[..., 0]
    at = names["PLANE"].flatten(0, 1)[bend.argmin()]  # where it is curved down most
    assert bend.min() < 0
    tilt = names["hopfield_gradient"](at, three, beta)
    u = names["STARTS"]
    for _ in range(4000):
        u = u - 0.5 * (names["hopfield_gradient"](u, three, beta) - tilt)
    ends = {tuple(row) for row in (u * 50).round().long().tolist()}
    assert max(math.dist(one, other) for one in ends for other in ends) > 5, "two valleys, well apart"


def test_steps_grow_without_bound_from_both_sides_of_one(names):
    arrival = dict(zip(names["CHOOSY"], names["ARRIVAL"].tolist(), strict=True))
    assert [arrival[a] for a in (0.5, 0.9, 0.99, 0.999)] == [20, 125, 1200, 10905]
    assert arrival[1.0] == 0, "never"
    assert arrival[0.9] < arrival[0.99] < arrival[0.999]
    assert arrival[2.0] < arrival[1.1] < arrival[1.01] < arrival[1.001]
    line = names["slowing"].data(a=1.0)["distance"]
    slope = np.polyfit(np.log(line[30:, 0]), np.log(line[30:, 1]), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.01), "one over the root of the steps"
    assert line[-1, 1] ** -2 / line[-1, 0] == pytest.approx(2 / 3, rel=0.01)
    assert max(names["newton_steps"](a) for a in (0.5, 0.9, 0.99, 0.999)) <= 10
    assert "10,905 steps" in names["slowing"].frame(a=0.999).alt


def test_the_loop_opens_beyond_one_and_is_as_wide_as_the_critical_whim(names):
    figure, drift = names["loop"], names["DRIFT"].numpy()
    for row, a in enumerate(names["PATIENCE"].tolist()):
        whole = figure.data(a=a, stage="back")
        there, back = whole["there"], whole["and back"][::-1]
        gap = np.abs(there[:, 1] - back[:, 1]).max()
        if a <= 1:
            assert gap < 1e-4
            continue
        width = names["critical_noise"](a).item()
        assert gap > 0.5
        jumps = there[1 + np.diff(there[:, 1]).argmax(), 0], back[np.diff(back[:, 1]).argmax(), 0]
        assert jumps[0] == pytest.approx(width, abs=0.03)
        assert jumps[1] == pytest.approx(-width, abs=0.03)
        middle = figure.data(a=a, stage="half there")["now"][0], figure.data(a=a, stage="half back")["now"][0]
        assert middle[0][1] < -0.5
        assert middle[1][1] > 0.5
        assert abs(middle[0][0]) < 1e-9
        assert figure.data(a=a, stage="half there")["there"][:, 0].max() < 1e-9, "no further than the stage"
        assert names["WALKED"][row].isfinite().all()
    assert drift[48] == pytest.approx(0.6)


def test_the_scale_is_free(names):
    u, scores = names["u"], names["A"]
    one, ten = (torch.linalg.det(names["jacobian_blocks"](c * u, scores / c**2)) for c in (1, 10))
    torch.testing.assert_close(one, ten)


def test_a_repulsive_head_is_rewarded(names):
    u = names["u"]
    barriers = [
        -torch.linalg.slogdet(names["jacobian_blocks"](u, -c * torch.eye(4).double())).logabsdet.sum().item()
        for c in (0.01, 0.1, 1.0)
    ]
    assert 0 > barriers[0] > barriers[1] > barriers[2]
    centred = torch.cat([u, torch.zeros(1, 4).double()])  # a token at 0 is undecided at any strength

    def last(c):
        return -torch.linalg.slogdet(names["jacobian_blocks"](centred, -c * torch.eye(4).double()))[1][-1].item()

    assert last(1e6) == pytest.approx(last(1e3) - 4 * math.log(1000), abs=0.1), (
        "without end: four directions, log c each"
    )
    assert abs(-torch.linalg.slogdet(names["jacobian_blocks"](u, -1e5 * torch.eye(4).double()))[1][-1]) < 1e-3
    moments = names["jacobian_blocks"](u, 1e-4 * names["A"])
    traces = (torch.eye(4).double() - moments).diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(-torch.linalg.slogdet(moments).logabsdet, traces, atol=1e-7, rtol=1e-3)


def test_after_every_past_it_is_a_density_only_if_nothing_attracts_and_then_no_barrier_is_above_zero(names):
    generator = torch.Generator().manual_seed(0)
    pasts = 3 * torch.randn(500, 6, 3, generator=generator, dtype=torch.float64)
    root, turn = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    repelling = turn - turn.mT - root @ root.mT
    signs, logs = torch.linalg.slogdet(names["jacobian_blocks"](pasts, repelling))
    assert (signs > 0).all()
    assert logs.min() > -1e-9
    attracting = repelling / 100 + 0.1 * torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    direction = torch.linalg.eigh(attracting + attracting.mT)[1][:, -1]
    assert direction @ attracting @ direction > 0
    far = torch.stack([30 * direction, -30 * direction, 0 * direction])
    assert torch.linalg.det(names["jacobian_blocks"](far, attracting))[-1] < 0


def test_what_she_reads_is_the_magnetisation_of_the_magnet(names):
    a, whim = 2.0, 0.1
    opinions = names["solutions"](torch.tensor(a, dtype=torch.float64), whim)
    read = torch.tanh(a * opinions)
    torch.testing.assert_close(read, torch.tanh(a * (read + whim)))


def test_the_answers_of_the_self_checks():
    a = 4 / 3
    fold = math.acosh(math.sqrt(a)) / a
    assert math.tanh(a * fold) - fold == pytest.approx(0.5 - 0.375 * math.log(3))
    assert 0.99 ** (math.log(10) / -math.log(0.99)) == pytest.approx(0.1)
