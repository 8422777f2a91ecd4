"""Each figure of chapter 14 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch14-symmetric-attention")


# ---------------------------------------------------------------- what tied queries and keys cannot want


def test_scores_are_symmetric_and_weights_are_not(names):
    seen = names["seen"]
    torch.testing.assert_close(seen["scores"], seen["scores"].mT)
    assert (seen["weights"] - seen["weights"].mT).abs().max() > 0.1


def test_tying_saves_a_twelfth_of_the_blocks_and_nothing_of_the_cache(names):
    shape = names["GPT2"]
    assert shape.layers * shape.width**2 * 12 == 12 * (4 + 8) * shape.width**2
    assert names["whole"] - names["smaller"] == shape.layers * (shape.width**2 + shape.width), "with its bias"
    cache = names["cache_bytes"]
    assert cache(shape, length=1024) == cache(shape, names["tied"], length=1024)


def test_the_longest_query_looks_at_itself():
    queries = torch.randn(2000, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    winners = (queries @ queries.mT).argmax(-1)
    lengths = queries.norm(dim=-1)
    chosen = lengths.gather(1, winners)
    elsewhere = winners != torch.arange(5)
    assert (chosen > lengths)[elsewhere].all()
    longest = lengths.argmax(1, keepdim=True)
    assert (winners.gather(1, longest) == longest).all()


def test_both_can_prefer_the_other_exactly_where_a_form_is_negative():
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        matrix += 1.5 * torch.rand((), generator=generator, dtype=torch.float64) * torch.eye(3)
        values, vectors = torch.linalg.eigh(matrix + matrix.T)
        pairs = torch.randn(4000, 2, 3, generator=generator, dtype=torch.float64)
        if values[0] < 0:
            pairs = torch.cat([pairs, torch.stack([vectors[:, 0], -vectors[:, 0]])[None] / 2])
        scores = pairs @ matrix @ pairs.mT
        both = (scores[:, 0, 1] > scores[:, 0, 0]) & (scores[:, 1, 0] > scores[:, 1, 1])
        assert bool(both.any()) == bool(values[0] < 0)


def test_four_tokens_make_51_patterns(names):
    """The exercise, by drawing symmetric scores until nothing new comes up."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(40_000, 4, 4, generator=generator)
    scores = (scores + scores.mT).masked_fill(torch.eye(4, dtype=torch.bool), -math.inf)
    assert len(torch.unique(scores.argmax(-1), dim=0)) == 51
    four = names["patterns"](4, itself=False)
    assert int(names["can_be_symmetric"](four, tied=False).sum()) == 51


# ---------------------------------------------------------------- partners


def test_partners_symmetric_stops_at_looking_evenly_and_others_close_the_cycle(names):
    accuracy, tasks = names["accuracy"], names["TASKS"]
    for task in tasks:
        evenly = tasks[task]["looking_evenly"]
        assert accuracy(task, "symmetric").mean() == pytest.approx(evenly, abs=0.03)
        for arm in {"standard", "pairwise", "low-rank"} & set(names["PLAIN"]):
            assert accuracy(task, arm).min() > 0.95
        figure = names["partners"]
        assert f"{accuracy(task, 'symmetric').mean():.3f}" in figure.frame(task=task, arm="symmetric").alt
    weights = np.mean(tasks["opposites"]["arms"]["symmetric"]["weights"], axis=0)
    np.testing.assert_allclose(weights, 0.5, atol=0.05)


def test_partners_from_a_large_start_take_sides_and_one_kind_looks_at_itself(names):
    for task, told in names["TASKS"].items():
        for weights in told["arms"]["symmetric-large"]["weights"]:
            assert max(np.diag(weights)) > 0.5, "somebody points at itself"
            choices = np.argmax(weights, axis=1)
            assert any(choice == kind for kind, choice in enumerate(choices))
        assert names["accuracy"](task, "symmetric-large").mean() < 0.8


def test_relative_noise_gives_back_modesty_and_no_circle(names):
    accuracy, tasks = names["accuracy"], names["TASKS"]
    for task in tasks:
        assert accuracy(task, "scalar").mean() == pytest.approx(accuracy(task, "symmetric").mean(), abs=0.02)
    assert accuracy("opposites", "relative").mean() > 0.95
    evenly_others = names["Partners"](3).looking_evenly(2)
    assert accuracy("rock-paper-scissors", "relative").mean() == pytest.approx(evenly_others, abs=0.03)
    weights = np.mean(tasks["rock-paper-scissors"]["arms"]["relative"]["weights"], axis=0)
    assert np.diag(weights).max() < 0.3, "not at itself"
    assert abs(weights[0, 1] - weights[0, 2]) < 0.05, "and evenly at the others"


def test_looking_evenly_is_what_counting_gives():
    """9/16 and 29/64 over all payloads of all tokens; 9/16 for who looks at the two others of three."""
    for kinds, wanted in ((2, 9 / 16), (3, 29 / 64)):
        right = (
            sum(max(row.count(one) for one in row) / kinds for row in itertools.product(range(8), repeat=kinds))
            / 8**kinds
        )
        assert right == pytest.approx(wanted)
    assert sum(1.0 if a == b else 0.5 for a, b in itertools.product(range(8), repeat=2)) / 64 == pytest.approx(9 / 16)


# ---------------------------------------------------------------- half of a head


def test_popularity_is_a_row_constant_away_from_symmetric_and_circles_are_not(names):
    torch.testing.assert_close(names["popularity"].softmax(-1), names["stand_in"].softmax(-1))
    torch.testing.assert_close(names["stand_in"], names["stand_in"].T)
    circle = names["circle"].double()
    found = optimize.minimize(  # the nearest symmetric score plus row constants
        lambda v: float(
            (
                (
                    circle
                    - torch.tensor([[v[0], v[1], v[2]], [v[1], v[3], v[4]], [v[2], v[4], v[5]]])
                    - torch.tensor(v[6:])[:, None]
                )
                ** 2
            ).sum()
        ),
        np.zeros(9),
    )
    assert found.fun == pytest.approx(6, abs=1e-4), "nothing of the circle can be had"


def test_heads_of_trained_models_have_fewer_circles_than_chance(names):
    figure = names["heads_of_models"]
    for model, told in names["MODELS"].items():
        bars = {part: np.array(told["text"][part]).mean(1) for part in ("symmetric", "popularity", "circles")}
        np.testing.assert_allclose(sum(bars.values()), 1, atol=1e-3)
        assert figure.frame(model=model, shown="on text").alt.startswith(f"{model}, on text")
        chance = np.mean(told["text_random"]["circles"])
        assert np.mean(told["text_random"]["popularity"]) < chance, "by chance more circles than popularity"
        assert np.mean(bars["circles"]) < chance


def test_the_symmetric_share_of_random_factors_is_a_half_and_a_little():
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 200, 8, 32, generator=generator, dtype=torch.float64)
    form = query.mT @ key
    symmetric = (form + form.mT) / 2
    share = symmetric.square().sum() / form.square().sum()
    assert share.item() == pytest.approx((1 + 1 / 32) / 2, abs=0.003)


# ---------------------------------------------------------------- the useless mean


def test_no_weight_moves_as_the_mean_grows(names):
    assert max(names["MOVED"]) < 1e-5
    assert names["knob_guess"].state["curve"] == names["MOVED"]


def test_constant_and_key_move_nothing_relative_makes_diagonals_and_content_columns(names):
    figure, weights_with = names["useless"], names["weights_with"]
    for family, moves in (("constant", False), ("key", False), ("relative", True), ("content", True)):
        assert (float((weights_with(family, 8.0) - weights_with(family, 0.0)).abs().max()) > 0.1) == moves
        assert ("moves by" in figure.frame(family=family, mu=8.0).svg) == moves
    odds = (weights_with("relative", 8.0) / weights_with("relative", 0.0)).log()
    for row in range(6, 11):  # the same push at each third distance, whatever the letters
        pushed = odds[row, : row + 1] - odds[row, row - 1]
        expected = [8 / math.sqrt(8) * ((row - column) % 3 == 0) for column in range(row + 1)]
        np.testing.assert_allclose(pushed, expected, atol=1e-4)
    vowels, content = names["VOWEL"], weights_with("content", 8.0) - weights_with("content", 0.0)
    for row in range(2, 11):
        seen = content[row, : row + 1]
        assert seen[vowels[: row + 1]].sum() > 0.05, "everybody looks at the vowels"


# ---------------------------------------------------------------- the place of the noise


@pytest.mark.parametrize(("gap", "s"), [(2.0, 1.0), (2.0, 1 / 8), (4.0, 0.5)])
def test_noise_is_a_temperature(names, gap, s):
    exact = integrate.quad(lambda z: stats.norm.pdf(z) / (1 + math.exp(-gap - math.sqrt(2) * s * z)), -9, 9)[0]
    assert names["formula_share"](gap, s) == pytest.approx(exact, abs=0.003)
    share, error = names["drawn_share"](gap, s)
    assert abs(share - exact) < 5 * error + 1e-6


def test_after_the_scaling_sigma_bites_and_before_it_does_not(names):
    figure = names["temperature"]
    at_two = {place: figure.data(sigma=1.0, place=place)["drawn"][4, 1] for place in names["PLACES"]}
    free = 1 / (1 + math.exp(-2))
    assert free - at_two["before, width 64"] < 0.005
    assert free - at_two["after"] > 0.05
    assert figure.data(sigma=8.0, place="before, width 64")["drawn"][4, 1] == pytest.approx(at_two["after"])
    assert f"{names['formula_share'](2, 1):.3f}" in figure.discovery


# ---------------------------------------------------------------- scores or keys


def test_noise_on_keys_has_columns_and_on_scores_a_speckle(names):
    figure = names["spaces"]

    def shared(space, queries):
        noise = names["noise_of"](space, queries).numpy()
        share = np.square(noise.mean(0)).mean() / np.square(noise).mean()
        assert f"hold {100 * share:.0f} %" in figure.frame(space=space, queries=queries).alt
        return share

    on_keys = [shared("key space", queries) for queries in names["ALIKE"]]
    assert on_keys[0] < on_keys[1] < on_keys[2]
    assert on_keys[2] > 0.9
    assert {round(shared("score space", queries), 9) for queries in names["ALIKE"]} == {
        round(shared("score space", "related"), 9)
    }
    assert shared("score space", "related") < 0.2


def test_noises_of_two_queries_that_read_one_key_correlate_by_their_cosine():
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    noise = q @ torch.randn(5, 200_000, generator=generator, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(q[0], q[1], dim=0)
    assert torch.corrcoef(noise)[0, 1].item() == pytest.approx(cosine.item(), abs=0.01)


# ---------------------------------------------------------------- tug of war


def test_the_rope_is_where_the_loss_is_least(names):
    """Minimise KL and parabola by a solver of its own; variance and kept mean add up to one."""
    for beta, h, g in ((1e-3, 3e-3, -2e-3), (0.1, 0.01, 0.05), (1.0, 1e-4, 0.3)):
        found = optimize.minimize(
            lambda v, beta=beta, h=h, g=g: (
                (
                    beta * 0.5 * (v[0] ** 2 + math.exp(2 * v[1]) - 1 - 2 * v[1])
                    + g * v[0]
                    + h / 2 * (v[0] ** 2 + math.exp(2 * v[1]))
                )
                / beta
            ),
            [0.0, -1.0],
        ).x
        assert math.exp(2 * found[1]) == pytest.approx(beta / (beta + h), rel=1e-3)
        assert found[0] == pytest.approx(-g / (beta + h), rel=1e-3)
        assert math.exp(2 * found[1]) + found[0] / (-g / h) == pytest.approx(1, rel=2e-3)
    assert names["mean"] == pytest.approx(0.25, abs=2e-3), "as the cell of the chapter learns it"
    assert math.exp(names["log_sigma"]) == pytest.approx(0.5, abs=2e-3)


def test_the_knot_is_in_the_middle_where_beta_is_the_curvature_and_a_large_beta_collapses(names):
    figure, curvatures = names["rope"], names["CURVATURES"]
    for number, h in enumerate(curvatures):
        assert figure.data(beta=float(h))["knot"][number, 0] == pytest.approx(0.5)
    ends = [(figure.data(beta=beta)["knot"][:, 0] > 0.95).sum() for beta in names["WEIGHTS"]]
    assert sorted(ends) == ends
    assert ends[0] == 0
    assert ends[-2:] == [5, 5] or ends[-1] >= 5
    rest = names["rest_guess"].state
    at = np.interp([-6, -3, 0], rest["x"], rest["curve"])
    np.testing.assert_allclose(at, [1, math.sqrt(0.5), math.sqrt(1e-3)], atol=0.002)


def test_drawings_are_told_apart(names):
    for figure in (names["rest_guess"], names["knob_guess"]):
        drawn = figure.state
        grid = np.linspace(drawn["x"][0], drawn["x"][-1], 61)
        for name, heights in [("truth", drawn["curve"])] + [(one["name"], one["y"]) for one in drawn["distractors"]]:
            assert figure.twin({**drawn, "drawn": np.interp(grid, drawn["x"], heights).tolist()})["nearest"] == name


# ---------------------------------------------------------------- sigma as a meter


def test_learned_sigma_follows_curvature_and_not_importance(names):
    learned, curved, important = names["LEARNED"], names["CURVED"], names["IMPORTANT"]
    beta = 0.01
    assert stats.spearmanr(learned[beta], curved)[0] < -0.6
    assert stats.spearmanr(learned[beta], important)[0] > stats.spearmanr(learned[beta], curved)[0] + 0.2
    for low, high in itertools.pairwise(names["BETAS"]):
        assert learned[low].mean() < learned[high].mean()
    expected = np.sqrt(beta / 8 / (beta / 8 + curved.clip(0)))
    assert np.abs(learned[beta] - expected).mean() < 0.15
    assert learned[1.0].min() > 0.85, "at the prior"
    figure = names["meter"]
    for head in range(8):
        assert figure.data(beta=beta)[f"head {head + 1}"][0, 1] == pytest.approx(learned[beta][head])


def test_the_copier_learns_to_look_back(names):
    assert names["CLEAN"] < 1.0, "guessing is 2.08"
    assert names["unsure"] * 7 / 8 < names["CLEAN"]


def test_steins_lemma():
    def loss(x):
        return math.log(1 + math.exp(x)) + 0.2 * math.cos(3 * x)

    def mean(function, sigma):
        return integrate.quad(lambda z: stats.norm.pdf(z) * function(sigma * z), -9, 9)[0]

    def curvature(x, step=1e-3):
        return (loss(x + step) - 2 * loss(x) + loss(x - step)) / step**2

    for sigma in (0.3, 1.2):
        slope = (mean(loss, sigma + 1e-4) - mean(loss, sigma - 1e-4)) / 2e-4
        assert slope == pytest.approx(sigma * mean(curvature, sigma), abs=1e-4)


def test_the_twin_shows_what_its_record_says(names):
    if names["TWIN"] is None:
        assert "`nslab rerun noiseformer-char-gpt`" in names["twin_noise"].data
        return
    frame = names["twin_noise"].data(depth=1, head=1)
    np.testing.assert_allclose(frame["mean"][:, 1], names["MU"][0, 0])
    np.testing.assert_allclose(frame["deviation"][:, 1], names["SIGMA"][0, 0])


# ---------------------------------------------------------------- the words


def test_the_sentence_on_heads_follows_the_record(names):
    true = names["MODELS"]

    def made(trained, chance):
        part = {"text": {"out_of_reach": [[trained]]}, "text_random": {"out_of_reach": [chance]}}
        return {"one": part, "two": part}

    try:
        names["MODELS"] = made(0.1, 0.4)
        assert "much less than the half" in names["lost"]()
        names["MODELS"] = made(0.5, 0.4)
        assert "do not lie apart" in names["lost"]()
    finally:
        names["MODELS"] = true
