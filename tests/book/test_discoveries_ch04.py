"""Each figure of chapter 4 makes a discovery; here it is asserted from the data of two frames."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch04-black-box")


def vote_of_fifteen(rho):
    """Stability of the majority of fifteen, summed over how many votes are cast and read as +1."""

    def binomial(count, chance):
        return np.array([math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(count + 1)])

    wrong = (1 - rho) / 2
    total = 0.0
    for plus in range(16):
        read = np.convolve(binomial(plus, 1 - wrong), binomial(15 - plus, wrong))
        total += math.comb(15, plus) / 2**15 * math.copysign(1, plus - 7.5) * (read @ np.sign(np.arange(16) - 7.5))
    return total


def test_four_times_the_calls_halve_the_bars_and_miss_as_often(names):
    figure, prices = names["forty_laboratories"], names["PRICES"]

    def bars(calls, bar):
        data = figure.data(calls=calls, bar=bar)
        lengths, missed = [], 0
        for label in ("holds the truth", "misses it"):
            ends = data[label][:, 0].reshape(-1, 3)
            lengths.append(ends[:, 1] - ends[:, 0])
            missed += len(ends) if label == "misses it" else 0
        return np.concatenate(lengths), missed

    few, _ = bars(prices[1], "one standard error")
    many, _ = bars(prices[2], "one standard error")
    assert len(few) == len(many) == 40
    assert few.mean() / many.mean() == pytest.approx(2, rel=0.05)
    for bar, share in {"one standard error": 0.317, "two standard errors": 0.05}.items():
        missed = sum(bars(calls, bar)[1] for calls in prices)
        rows = 40 * len(prices)
        assert abs(missed / rows - share) < 3 * math.sqrt(share * (1 - share) / rows)
    for calls in prices:
        assert bars(calls, "one standard error")[1] == pytest.approx(13, abs=4), "it does not fall with the price"
        assert bars(calls, "two standard errors")[1] <= 4


def test_the_drawn_error_curve_is_that_of_a_product_of_signs(names):
    state = names["error_along_the_curve"].state
    rho, curve = np.array(state["x"]), np.array(state["curve"])
    np.testing.assert_allclose(curve, [math.sqrt(max(0, 1 - vote_of_fifteen(each) ** 2)) for each in rho], atol=1e-6)
    assert curve[0] == 1
    assert curve[-1] == pytest.approx(0, abs=1e-6)
    assert curve[rho == 0.5] > 0.9


def test_orders_cost_four_times_as_much(names):
    assert names["bought"].stderr <= 0.005
    dear = names["bought"].evaluations
    sigma = math.sqrt(1 - names["truth"] ** 2)
    assert dear == pytest.approx(2 * (sigma / 0.005) ** 2, rel=0.15)


def test_the_linear_part_pays_for_a_vote_and_not_for_a_parity(names):
    figure, rows = names["price_list"], names["DESIGNS"]

    def errors(box, calls):
        data = figure.data(box=box, calls=calls)
        found = dict(zip(rows, 10 ** data["error of a design"][:, 0], strict=True))
        return found, 10 ** data["auto"][0, 0]

    vote, auto = errors("vote of 11", 160_000)
    assert vote["linear"] < 0.5 * vote["common"]
    assert auto < 0.5 * vote["common"]
    parity, auto = errors("parity of 3", 160_000)
    assert parity["linear"] > 0.95 * parity["common"]
    assert auto < 1.1 * parity["common"]
    assert auto < parity["naive"]
    share, auto = errors("share of vowels", 160_000)
    assert auto < 0.2 * share["naive"]
    for box in names["BOXES"]:
        poor, auto = errors(box, 40_000)
        assert names["CHOSEN"][box, 40_000] == "common"
        assert auto == pytest.approx(poor["common"]), "it takes the same design with the same draws"


def test_common_points_are_cheaper_than_naive_pairs_for_every_box(names):
    for box in names["BOXES"]:
        for calls in (40_000, 160_000):
            assert names["LIST"][box, calls, "common"] < names["LIST"][box, calls, "naive"]


def test_hits_count_and_not_calls(names):
    figure = names["honest_bars"]
    chance = (0.5 * 0.75) ** 8
    empty = {1000: (0.39, 0.66, 0.7), 10_000: (3.9, 0.01, 0.025), 100_000: (39, 0, 1e-9)}
    for pairs, (hits, least, most) in empty.items():
        data = figure.data(signs=8, pairs=pairs)
        assert chance * pairs == pytest.approx(hits, rel=0.01)
        assert least <= np.interp(math.log10(pairs), *data["not a single hit"].T) <= most
    assert "39 hits" in figure.frame(signs=8, pairs=100_000).alt.replace("39.1", "39")
    assert f"{1000 * (0.5 * 0.75) ** 4:.0f}" == "20"
    for signs, pairs in ((8, 100_000), (4, 1000), (2, 1000)):  # enough hits, from very different numbers of pairs
        assert 0.93 < figure.data(signs=signs, pairs=pairs)["here"][0, 1] < 0.97
    assert figure.data(signs=10, pairs=1000)["here"][0, 1] < 0.1  # 0.05 hits
    hits = 1 / chance
    data = figure.data(signs=8, pairs=1000)
    empty = np.interp(math.log10(hits), *data["not a single hit"].T)
    assert empty == pytest.approx(math.exp(-1), abs=0.03)
    held = np.interp(math.log10(100 * hits), *data["bar holds the truth"].T)
    assert held == pytest.approx(0.95, abs=0.02)


def test_coverage_is_what_simulation_finds(names):
    generator = np.random.default_rng(0)
    chance, pairs = 0.02, 250
    share = generator.binomial(pairs, chance, 200_000) / pairs
    error = np.sqrt(share * (1 - share) / (pairs - 1))
    held, nothing = names["coverage"](chance, pairs)
    assert held == pytest.approx((abs(share - chance) <= 1.96 * error).mean(), abs=0.004)
    assert nothing == pytest.approx((share == 0).mean(), abs=0.001)


def test_an_empty_bar_does_not_hold_a_rare_truth(names):
    assert names["ordered"].value == 0
    assert names["ordered"].stderr == 0
    assert 0.5**10 * 0.75**10 > 1e-6, "the truth is far outside what was ordered"


def test_the_product_is_the_overlap_of_two_distributions(names):
    figure = names["one_pair"]
    for play in names["OPENINGS"]:
        still, noisy = figure.data(play=play, keep=1.0), figure.data(play=play, keep=0.3)
        np.testing.assert_allclose(still["after x"], still["after its twin y"])
        np.testing.assert_allclose(still["after x"], noisy["after x"])
        assert abs(noisy["after x"] - noisy["after its twin y"]).max() > 0.02
        before, after = names["AFTER"][play, 1.0], names["AFTER"][play, 0.3]
        assert float(before @ before) >= float(before.max()) ** 2
        assert f"{float(before @ after):.3f}" in figure.frame(play=play, keep=0.3).alt
    sure = {play: float(names["AFTER"][play, 1.0].square().sum()) for play in names["OPENINGS"]}
    assert max(sure.values()) > 1.5 * min(sure.values())
    likeliest = {play: float(names["AFTER"][play, 1.0].max()) for play in names["OPENINGS"]}
    assert max(sure, key=sure.get) == max(likeliest, key=likeliest.get)


def test_one_twin_loses_characters_for_nothing_and_another_nearly_all(names):
    twins, after = names["TWINS"], names["AFTER"]
    left, lost = {}, {}
    for play, keep in twins:
        left[play, keep] = float(after[play, keep] @ after[play, 1.0]) / float(after[play, 1.0].square().sum())
        lost[play, keep] = int((twins[play, keep] != twins[play, 1.0]).sum())
    assert any(abs(left[pair] - 1) < 0.05 and lost[pair] >= 3 for pair in twins)
    assert min(left.values()) < 0.1


def test_the_quoted_twin_is_the_one_drawn(names):
    noisy = "".join(names["model"].pieces(names["TWINS"]["Macbeth", 0.9]))
    assert noisy.replace("␣", " ").startswith("Lifeh, nutta walking seadot")


def test_most_handfuls_of_prompts_read_too_low(names):
    torch = names["torch"]
    prompts, noise = names["PROMPTS"], names["NOISE"]
    generator = torch.Generator().manual_seed(3)
    found = names["text_stability"](
        names["next_character"], prompts, noise, keep=[0.9], twins=4, batch=128, generator=generator
    )
    handfuls = found.products[:, 0][torch.randint(len(prompts), (4000, 4), generator=generator)].mean(1)
    assert (handfuls < found.raw.value).double().mean() > 0.52


def test_prompts_refuse_dice_and_a_module_that_throws_them_is_refused_too(names):
    torch = names["torch"]
    generator = torch.Generator().manual_seed(4)
    ids = names["NOISE"].draw((50, 4), generator)

    def dicey(x):
        return torch.rand(len(x), 3, generator=generator)

    with pytest.raises(ValueError, match="random"):
        names["text_stability"](dicey, ids, names["NOISE"], keep=[0.5], generator=generator)
    with pytest.raises(ValueError, match="training"):
        names["noise_stability"](names["dicey"].train(), names["Cube"](15), rho=1.0, evaluations=8000)
    with pytest.raises(ValueError, match="training"):
        names["zoo"].wrap(names["dicey"], vocabulary=3, context=15)
    names["dicey"].eval()


def test_batch_norm_passes_at_one_and_changes_the_box(names):
    torch = names["torch"]
    torch.manual_seed(0)
    box = torch.nn.Sequential(torch.nn.Linear(15, 8), torch.nn.BatchNorm1d(8)).train()
    before = box[1].running_mean.clone()
    found = names["noise_stability"](
        lambda x: box(x),
        names["Cube"](15),
        rho=1.0,
        version="normalised",
        evaluations=2000,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.value == pytest.approx(1), "the test does not see it"
    assert not torch.equal(before, box[1].running_mean)
    x = torch.randn(8, 15)
    assert not torch.allclose(box(x)[:2], box(x[:2]), atol=0.05)


def test_any_two_of_the_six_copies_are_correlated_by_rho(names):
    """Copies of a hidden point with noise of strength sqrt(rho): any two agree with probability (1 + rho)/2."""
    generator = np.random.default_rng(0)
    rho = 0.49
    one, other = (np.where(generator.random(200_000) < (1 - math.sqrt(rho)) / 2, -1, 1) for _ in range(2))
    assert (one * other).mean() == pytest.approx(rho, abs=0.01)


def test_the_stability_of_an_alarm_from_inputs_that_fire(names):
    torch = names["torch"]
    x = torch.ones(100_000, 30)
    x[:, :10] = -1
    y = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.25, -x, x)
    share = names["alarm"](y).mean().item()
    assert share == pytest.approx(0.75**10, rel=0.06)
    assert share / 1024 == pytest.approx(0.375**10, rel=0.06)


def test_the_spectrum_is_never_bent_downwards_beyond_its_error(names):
    """On independent characters the curve is a sum of powers with weights of one sign, so its chords lie above it."""
    grid = names["GRID"]
    for temperature in names["TEMPERATURES"]:
        raw = names["MEASURED"]["independent characters", temperature]["raw"]
        chord = raw.value[0] + grid * (raw.value[-1] - raw.value[0])
        assert (raw.value <= chord + 4 * raw.stderr).all()


def test_raw_and_normalised_move_in_opposite_directions(names):
    figure = names["three_answers"]
    for prompts in names["SOURCES"]:
        sure, unsure = (figure.data(prompts=prompts, temperature=t) for t in (0.5, 4.0))
        at = {version: (sure[version][:, 1], unsure[version][:, 1]) for version in ("raw", "normalised", "centred")}
        assert (at["raw"][0] > 2 * at["raw"][1]).all()
        assert (at["normalised"][0][:-1] < at["normalised"][1][:-1]).all()
        moved = {version: abs(low - high)[1:5].mean() for version, (low, high) in at.items()}
        assert moved["centred"] < 0.65 * moved["normalised"], "about half as much"
        assert abs(at["centred"][0][0] - at["centred"][1][0]) < 0.15, "at keep = 0 it stays"
        np.testing.assert_allclose(sure["diagonal"][:, 0], sure["diagonal"][:, 1])
        every = [figure.data(prompts=prompts, temperature=t) for t in names["TEMPERATURES"]]
        raws = np.array([data["raw"][:, 1] for data in every])
        assert (np.diff(raws, axis=0) < 0).all(), "raw stability rises all the way down"
        cold, one, hot = (figure.data(prompts=prompts, temperature=t)["normalised"][:-1, 1] for t in (0.25, 1.0, 4.0))
        assert (hot - one).sum() > 3 * (one - cold).sum()
        assert at["normalised"][0][-1] == pytest.approx(1)
        assert at["centred"][0][0] == pytest.approx(0, abs=0.15)


def test_at_keep_eight_tenths_the_centred_version_moves_half_as_much(names):
    ends = names["ENDS"]
    moved = {
        v: ends[v, names["TEMPERATURES"][-1]] - ends[v, names["TEMPERATURES"][0]] for v in ("normalised", "centred")
    }
    assert 0.35 < moved["centred"] / moved["normalised"] < 0.65


def test_two_instruments_agree_on_independent_characters(names):
    stability, prompts = names["text_stability"], names["short"]
    generator = names["torch"].Generator().manual_seed(11)
    strengths = {"keep": [0.4, 0.8], "generator": generator}
    one = names["noise_stability"](names["next_character"], names["space"], evaluations=3000, **strengths)
    two = stability(names["next_character"], prompts, names["NOISE"], twins=1, batch=128, **strengths).raw
    spread = (one.stderr**2 + two.stderr**2).sqrt()
    assert ((one.value - two.value).abs() < 4 * spread).all()


def test_a_table_of_pairs_is_of_degree_one_and_char_gpt_is_not(names):
    table = names["table"].centred
    keep = names["torch"].tensor([0.25, 0.5, 0.75], dtype=names["torch"].float64)
    assert ((table.value - keep).abs() < 4 * table.stderr).all()
    network = names["MEASURED"]["independent characters", 1.0]["centred"]
    at = names["GRID"].tolist().index(0.6)
    assert network.value[at] < 0.6 - 2 * network.stderr[at]


def test_confidence_counts_in_raw_stability_and_dice_show_at_one(names):
    assert names["throwing"].value < 1 - 10 * names["throwing"].stderr
    assert names["steady"].value == pytest.approx(1)
    x = names["torch"].ones(1, 15)
    for box in ("soft", "softer"):
        assert names[box](x).sum() == pytest.approx(1)
