"""Each figure of chapter 5 makes a discovery, its prose tells findings; both are asserted from the record's data."""

import math
import re

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch05-who-matters")


def shares(figure, **values):
    return figure.data(**values)["share of the influence"]


def words(names, model, number):
    return [piece.replace("␣", "") for piece in names["told_of"](model, number)[0]]


def test_keys_and_bell_stand_out_and_an_inner_the_never_does(names):
    figure = names["sentence_bars"]
    for model in ("SmolLM2", "MiniLM"):
        for sentence, word in (("The keys …", "keys"), ("When the bell …", "bell")):
            bars = shares(figure, model=model, sentence=sentence)
            tokens = words(names, model, names["OPENINGS"][sentence])
            assert bars[tokens.index(word)] > 1 / len(bars)
            inner = [bars[i] for i, token in enumerate(tokens) if token == "the" and i > 0]
            assert inner
            assert max(inner) < 1 / len(bars)
    for sentence in names["OPENINGS"]:
        bars = shares(figure, model="char-gpt", sentence=sentence)
        assert bars[-len(bars) // 3 :].sum() > 0.5
        for model in names["MODELS"]:
            bars = shares(figure, model=model, sentence=sentence)
            assert bars.sum() == pytest.approx(1)
            assert bars.min() > 0


def test_a_first_letter_can_be_heard_in_a_short_sentence(names):
    bars = [shares(names["sentence_bars"], model="char-gpt", sentence=sentence) for sentence in names["OPENINGS"]]
    assert 2 <= sum(one[0] > 1 / len(one) for one in bars) < len(bars), "in some"


def test_one_word_has_two_influences_and_that_beats_kitchen(names):
    bars = shares(names["sentence_bars"], model="SmolLM2", sentence="The keys …")
    tokens = words(names, "SmolLM2", 0)
    assert tokens[0] == "The"
    assert bars[0] > 5 * bars[tokens.index("the")]
    assert bars[tokens.index("that")] > bars[tokens.index("kitchen")]


def test_depth_gathers_influence_at_the_last_token_and_noise_evens_it_out(names):
    figure = names["depth_and_noise"]

    def times(**values):
        return 1 + figure.data(**values)["more than an equal share"]  # bars begin at an equal share

    first, middle, deep = (times(layer=layer, rho=1.0) for layer in (0, 15, 29))
    assert first.mean() == pytest.approx(1)
    assert first[-1] < middle[-1] < deep[-1]
    assert deep[-1] > 0.5 * len(deep)
    for layer in names["DEPTHS"]:
        assert (times(layer=layer, rho=1.0)[0] < 0.25) == (layer >= 15)
        found = np.array([times(layer=layer, rho=rho) for rho in names["RHOS"]])
        assert found.min() > 0.025, "in the plot"
        assert found.max() < 14, "in the plot"
        spread = np.abs(np.log(found)).mean(1)
        assert spread[0] < spread[-1], "noise evens the bars out"
    noisy = times(layer=0, rho=min(names["RHOS"]))
    assert (abs(np.log(noisy)) < np.log(1.3)).sum() >= len(noisy) - 1, "nearly all close to an equal share"


def test_after_the_last_layer_one_vector_is_left(names):
    last = names["BELL"][-1, :, -1]
    assert last[-1] > 0
    assert (last[:-1] == 0).all()
    assert names["LAYERS"]["SmolLM2"].shape[0] - 1 == 30


def test_push_and_replacement_agree_in_the_main_and_not_everywhere(names):
    from scipy.stats import spearmanr

    ours = names["AGREEMENT"]
    theirs = [spearmanr(x, y).statistic for x, y in zip(names["PROFILES"]["char-gpt"], names["DISCRETE"], strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # ties at zero
    assert 0.6 < np.mean(ours) < 0.98
    spreads = []
    for prompt in range(1, 7):
        pairs = names["push_or_replace"].data(prompt=prompt)["one character"]
        assert len(pairs) == names["TOLD"]["char-gpt"]["length"]
        assert pairs.sum(0) == pytest.approx(1, abs=1e-3)
        low, high = np.quantile(np.log10(pairs), [0.25, 0.75], axis=0)
        spreads.append(np.divide(*(high - low)[::-1]))
        ranks = pairs.argsort(0).argsort(0) / len(pairs)
        assert np.ptp(ranks[:, 1] - ranks[:, 0]) > 0.4, "exceptions"
    assert 1.5 < np.median(spreads) < 2.6, "squares spread over twice as many powers of ten"


def test_the_truth_lies_between_a_junta_and_a_democracy(names):
    state = names["how_few"].state
    share, curve = np.array(state["x"]), np.array(state["curve"])
    handful, alike = (np.array(one["y"]) for one in state["distractors"])
    inner = (share > 0.03) & (share < 0.95)
    assert (curve[inner] > alike[inner] + 0.01).all()
    assert (curve[(share > 0.03) & (share < 0.5)] < handful[(share > 0.03) & (share < 0.5)] - 0.05).all()
    figure = names["how_few"]
    assert figure.twin({**state, "drawn": [0.0, *[None] * 59, 1.0]})["nearest"] == "all alike"


def test_squares_sink_twice_as_fast_and_no_curve_reaches_zero(names):
    figure = names["long_tail"]
    for model in names["MODELS"]:
        lengths, squares = (figure.data(model=model, added=added) for added in ("lengths", "squares of lengths"))
        for row in ("prompt 1", "prompt 2", "prompt 3"):
            np.testing.assert_allclose(squares[row][:, 1], lengths[row][:, 1] ** 2, rtol=1e-12)
        for data in (lengths, squares):
            assert data["median"][-1, 1] > 1e-7, "in the plot"
            assert data["median"][0, 1] == 1
        assert squares["needed"][0, 0] < 0.7 * lengths["needed"][0, 0]
    for model in ("SmolLM2", "char-gpt"):
        lengths, squares = (figure.data(model=model, added=added) for added in ("lengths", "squares of lengths"))
        assert np.median(lengths["median"][:, 1]) < 0.1, "some stand out by a factor of ten"
        assert squares["needed"][0, 0] < 0.1 * names["TOLD"][model]["length"], "a small part"


def by_hand(influences):
    """Nine tenths, participation ratio and tokens above a tenth of one profile, from their definitions."""
    found = np.sort(np.asarray(influences, dtype=np.float64))[::-1]
    held = np.cumsum(found) / found.sum()
    return 1 + int((held < 0.9).sum()), found.sum() ** 2 / (found**2).sum(), int((found > found[0] / 10).sum())


def test_the_table_counts_lengths_and_squares(names):
    for (model, added), counts in names["COUNTED"].items():
        rows = {
            "lengths": names["PROFILES"][model],
            "squares of lengths": names["PROFILES"][model] ** 2,
            "replacing, a mean square": names["DISCRETE"],
        }[added]
        expected = np.mean([by_hand(row) for row in rows], 0)
        np.testing.assert_allclose([count["value"] for count in counts], expected)
        assert all(count["low"] <= count["value"] <= count["high"] for count in counts)
        if added == "lengths":
            told = names["TOLD"][model]["geometric"]
            keys = ("tokens_holding_90", "participation_ratio", "above_tenth")
            np.testing.assert_allclose(expected, [told[key]["value"] for key in keys])


def test_how_few_hangs_on_what_is_added_up(names):
    smol = {added: names["COUNTED"]["SmolLM2", added] for added in names["ADDED"]}
    assert smol["lengths"][2]["low"] > 10, "by lengths not five to ten"
    assert 3 < smol["squares of lengths"][2]["value"] < 10, "by squares it is"
    assert smol["lengths"][0]["value"] > 5 * smol["squares of lengths"][0]["value"]
    assert names["COUNTED"]["char-gpt", "replacing, a mean square"][0]["high"] < 5
    needed = {model: names["COUNTED"][model, "squares of lengths"][0] for model in ("SmolLM2", "char-gpt", "MiniLM")}
    share = {model: one["value"] / names["TOLD"][model]["length"] for model, one in needed.items()}
    assert max(share, key=share.get) == "MiniLM", "least uneven, whatever is added"
    assert all(one["high"] < 0.9 * names["TOLD"][model]["length"] for model, one in needed.items())
    for key in ("SmolLM2", "char-gpt"):
        assert names["below_a_tenth"](key, "squares of lengths") < 10 < names["below_a_tenth"](key, "lengths")


def test_the_mean_square_of_the_derivative_is_the_influence_of_a_bit(names):
    bf, torch = names["bf"], names["torch"]
    table = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bit in range(6):
        other = torch.arange(64) ^ (1 << bit)
        derivative = (table - table[other]) / 2
        assert derivative.square().mean() == pytest.approx(bf.influences(table)[bit].item())


def test_the_card_of_few_tokens_tells_lengths_and_squares(names):
    from nslab.claims.checks_2602_08287_models import few_tokens

    numbers = few_tokens().numbers
    for key, model in (("smollm2_135m", "SmolLM2"), ("char_gpt", "char-gpt")):
        for part, added in (("", "lengths"), ("_squares", "squares of lengths")):
            counts = names["COUNTED"][model, added]
            assert numbers[f"k90{part}_{key}"] == pytest.approx(counts[0]["value"])
            assert numbers[f"above_tenth{part}_{key}"] == pytest.approx(counts[2]["value"])


def test_influence_is_concentrated_in_every_model_and_more_than_ten_stand_out(names):
    for told in names["TOLD"].values():
        found = told["geometric"]
        assert found["tokens_holding_90"]["high"] < 0.9 * told["length"]
        assert found["participation_ratio"]["high"] < told["length"]
    spread = {
        name: told["geometric"]["tokens_holding_90"]["value"] / told["length"] for name, told in names["TOLD"].items()
    }
    assert max(("SmolLM2", "char-gpt", "MiniLM"), key=spread.get) == "MiniLM"
    assert names["TOLD"]["SmolLM2"]["geometric"]["above_tenth"]["low"] > 10
    assert names["SORTED"]["SmolLM2", "lengths"][:, 10].mean() > 0.1, "the line for ten tokens lies above a tenth"


def test_the_ends_of_the_three_models_differ(names):
    figure = names["two_ends"]
    ends = {}
    for model in ("SmolLM2", "char-gpt", "MiniLM"):
        data = figure.data(model=model, depth="the embeddings")
        ends[model] = data["from the front"][:, 1], data["from the end"][:, 1]
    for model in ("SmolLM2", "char-gpt"):
        back = ends[model][1]
        assert back[-1] > 5
        assert back[-4:-1].min() > 1.5, "the tokens before it have more than an equal share"
    assert ends["MiniLM"][1][-1] < 5
    assert ends["SmolLM2"][0][0] > 1.5
    assert ends["SmolLM2"][0][0] < ends["SmolLM2"][1][-3:].min(), "fewer than the tokens at the end"
    assert ends["char-gpt"][0][0] < 0.5
    for depth in names["FRACTIONS"]:
        seen = {model: figure.data(model=model, depth=depth) for model in ends}
        first = {model: data["from the front"][:2, 1] for model, data in seen.items()}
        for data in seen.values():
            assert min(data["from the front"][:, 1].min(), data["from the end"][:, 1].min()) > 0.001, "in the plot"
        assert first["SmolLM2"][0] > 1.3 * first["SmolLM2"][1]
        assert first["char-gpt"][0] < 0.5
        assert (first["MiniLM"][0] > 2 * first["MiniLM"][1]) == (depth != "the embeddings")
    assert first["MiniLM"][0] > 4 * ends["MiniLM"][0][0]


def test_no_influence_is_zero_or_rounding(names):
    for found in names["PROFILES"].values():
        assert (found.amin(1) / found.amax(1)).min() > 1e-6
    for model in ("SmolLM2", "char-gpt"):
        above = names["share_above"](names["PROFILES"][model])
        assert 0.05 < 1 - above.held.mean() < 0.7, "the small ones together hold a real share"


def test_r_moves_points_sideways_and_dictator_and_sum_stay_above_each_other(names):
    figure = names["stable_but_not_sparse"]
    one, other = (figure.data(r=r) for r in (names["KEEP"][0], names["KEEP"][-1]))
    for r, data in zip((names["KEEP"][0], names["KEEP"][-1]), (one, other), strict=True):
        assert data["dictator"][0, 0] == pytest.approx(r)
        assert data["sum of all"][0, 0] == pytest.approx(r)
        assert data["parity of all"][0, 0] == pytest.approx(r**15)
        assert (data["dictator"][0, 1], data["sum of all"][0, 1]) == pytest.approx((1 / 15, 14 / 15))
        assert set(names["MODELS"]) & set(data)
    for label in names["FUNCTIONS"]:
        assert one[label][0, 1] == other[label][0, 1]
        assert one[label][0, 0] < other[label][0, 0]


def test_both_sides_of_the_scatter_have_one_kind_of_influence(names):
    """Influence of a bit is a mean square; so the models' heights come from squares, lengths would move them only."""
    figure, bf = names["stable_but_not_sparse"], names["bf"]
    data = figure.data(r=names["KEEP"][-1])
    for model, found in names["PROFILES"].items():
        squares = np.mean([by_hand(row)[0] for row in found**2]) / found.shape[1]
        assert data[model][0, 1] == pytest.approx(squares)
        assert names["MODELS_NEED"]["lengths"][model] > squares
    for label, table in names["FUNCTIONS"].items():
        influences = bf.influences(table)
        assert data[label][0, 1] == pytest.approx(by_hand(influences)[0] / 15)
        assert by_hand(influences)[0] == by_hand(influences.clamp(min=0).sqrt())[0], "lengths leave the functions alone"


def test_a_larger_t_lifts_the_curves_where_there_is_much_noise(names):
    figure = names["two_bounds"]
    for model in names["MODELS"]:
        by_degree = {T: figure.data(model=model, T=T) for T in (1, 5, 15, 40, 100)}
        assert all((data["Markov's bound"][:, 1] == 1).all() for data in by_degree.values())
        for law in names["LAWS"]:
            tails = [seed["tails"] for seed in names["TOLD"][model]["tails"][law]]
            mean = {key: np.mean([tail[key]["value"] for tail in tails], 0) for key in ("bounds", "markov")}
            curves = {T: data[f"{law} tokens"][:, 1] for T, data in by_degree.items()}
            np.testing.assert_allclose(curves[15], mean["bounds"] / mean["markov"])
            r = np.array(tails[0]["keep"])
            np.testing.assert_allclose(curves[100], curves[15] * 100 / 15 * (1 - r**15) / (1 - r**100))
            strong = r <= 0.8
            for few, many in ((1, 5), (5, 15), (15, 40), (40, 100)):
                assert (curves[many][strong] > curves[few][strong]).all()
            assert curves[15][0] > 1, "with much noise it loses at fifteen"
            assert law == "natural" or curves[1][0] < 1, "and wins at one, where it is a theorem"
            assert abs(np.log(curves[15][-3:])).max() < abs(np.log(curves[100][:3])).min(), "towards the line"
            ends = [np.array([tail["bounds"][end] for tail in tails]).mean(0) for end in ("high", "low")]
            width = np.divide(ends[0], np.maximum(ends[1], 1e-9))
            assert width[-1] > width[0], "near r = 1 the intervals are widest"
            for data in by_degree.values():
                drawn = data[f"interval, {law}"][:, 1]
                assert np.nanmin(drawn) > 0.02, "in the plot"
                assert np.nanmax(drawn) < 200, "below the legend"


def test_what_is_said_plainly_is_what_the_intervals_say(names):
    assert min(one / two for one, two in names["TAIL_TABLE"].values()) == 2
    words = {"below": r"the gain of ([^;]*?) stays below it", "above": r"the gain of ([^;]*?) lies above it"}
    listed = {side: re.search(pattern, names["PLAINLY"]) for side, pattern in words.items()}
    for model, told in names["TOLD"].items():
        gains = [seed["tails"]["gain"] for seed in told["tails"]["independent"]]
        low, high = (np.mean([gain[end] for gain in gains]) for end in ("low", "high"))
        assert (model in (listed["below"][1] if listed["below"] else "")) == (high < 2)
        assert (model in (listed["above"][1] if listed["above"] else "")) == (low > 2)


def test_the_largest_natural_gain_is_told_and_what_no_spectrum_allows_is_named(names):
    natural = {
        model: np.mean([seed["tails"]["gain"]["value"] for seed in told["tails"]["natural"]])
        for model, told in names["TOLD"].items()
    }
    model = max(natural, key=natural.get)
    assert f"largest gain is {natural[model]:#.3g} (" in names["PLAINLY"]
    too_much = 15 * natural[model] > names["TOLD"][model]["length"]
    assert (f"need weight at degree {math.ceil(15 * natural[model])}," in names["PLAINLY"]) == too_much


def test_a_gain_needs_weight_at_fifteen_times_its_size(names):
    ratios = {"GPT-2": 6.0, "BERT": 2.0, "RoBERTa": 9.5}
    for model, gain in ratios.items():
        one, two = names["TAIL_TABLE"][model]
        assert one / two == pytest.approx(gain)
        assert names["implied_degree"](one / two, 15) == math.ceil(15 * gain)
    assert names["NEEDS"] == {"GPT-2": 90, "BERT": 30, "RoBERTa": 143, "Gemma": 42}


def test_the_wrong_eigenvalue_makes_up_a_gain_of_at_most_two():
    mixed = [(1 - rho**15) / (1 - ((1 + rho) / 2) ** 15) for rho in np.linspace(0, 1, 400, endpoint=False)]
    assert (np.diff(mixed) > 0).all()
    assert mixed[0] == pytest.approx(1, abs=1e-4)
    assert 1.97 < mixed[-1] < 2
    assert mixed[360] == pytest.approx(0.794 / 0.537, abs=0.002)


def test_the_mix_up_could_make_most_of_the_small_gains_and_no_large_one(names):
    gains = names["TOLD_GAINS"]
    assert gains["BERT"] <= 2 + 1e-9, "nearly the whole"
    assert gains["Gemma"] / 2 < 1.5, "most"
    assert min(gains["GPT-2"], gains["RoBERTa"]) / 2 >= 3


def test_a_hilltop_is_flat_and_yet_replacing_is_felt():
    """The self-check: g = x1 + x2**2 at (0, 0), fresh values -1, 0 and 1."""
    influences = [0.5 * np.mean([(0 - change(t)) ** 2 for t in (-1, 0, 1)]) for change in (lambda t: t, lambda t: t**2)]
    assert influences == [pytest.approx(1 / 3)] * 2


def test_a_blind_rule_is_perfect_on_one_kind_and_useless_on_the_other(names):
    figure = names["which_word_decides"]
    for place in names["ALONE"]:
        reflexive, verb = (figure.data(kind=kind, place=place)["right answers"] for kind in ("reflexive", "verb"))
        assert (reflexive[1], reflexive[2]) == (1, 0)
        assert (verb[1], verb[2]) == (0, 1)


def test_influence_beats_chance_and_place_helps_one_kind_and_hurts_the_other(names):
    for kind, key in names["KINDS"].items():
        for place in names["ALONE"].values():
            cell = names["CELLS"][f"{key}/{place}"]
            assert cell["accuracy"]["low"] > 0.5, "the model itself knows"
            assert cell["licensor_leads"]["low"] > cell["chance"]["value"], (kind, place)
    rates = names["RATES"]
    assert rates["reflexive_behind"] < rates["reflexive_alone"]
    assert rates["verb_behind"] > rates["verb_alone"]
    leads = names["LEADS"]
    assert leads["first_behind"] < leads["first_alone"], "the bonus moves with the text"
    assert leads["first_alone"] <= 100 - rates["verb_alone"] + 1e-9
    assert np.mean(list(rates.values())) > 60, "better than the half that a blind rule gets"


def test_a_model_that_is_sure_has_small_gradients(names):
    sure, total = names["sure"], names["total"]
    assert 5 < sure.sum() < len(sure) - 5
    assert total[sure].median() < 0.5 * total[~sure].median()
