"""Each figure of chapter 10 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from nslab.reruns import next_token

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch10-next-token")


def test_the_readings_of_75_per_cent(names):
    found = names["acceleration"]([7.0], [4.0], plain_last=10, changed_last=10)
    assert found.ratio == pytest.approx(1.75)
    assert found.saved == pytest.approx(3 / 7)
    assert 1 / found.in_seconds(2).ratio - 1 == pytest.approx(1 / 7)
    assert found.in_seconds(4 / 3).saved == pytest.approx(5 / 21)


def test_byte_pairs_merge_what_stands_together_most_often(names):
    rhyme, spell = names["rhyme"], names["spell"]
    pairs = {first + second for word in rhyme.split() for first, second in zip(" " + word, word, strict=False)}
    counts = {pair: sum((" " + word).count(pair) for word in rhyme.split()) for pair in pairs}
    assert max(counts, key=counts.get) == " t"
    [token] = {token for tokens in spell(rhyme, 1).values() for token in tokens if len(token) == 2}
    assert token == " t"
    for merges in (0, 10, 200):
        assert all("".join(tokens) == word for word, tokens in spell(rhyme, merges).items())
    assert all(len(tokens) == 1 for tokens in spell(rhyme, 200).values())
    assert {" the", " that", "at"} <= {token for tokens in spell(rhyme, 10).values() for token in tokens}


def test_one_keep_is_another_noise_in_each_vocabulary(names):
    figure = names["noisy_line"]
    shares = {kind: figure.data(tokens=kind, keep=0.8)["here"][0, 1] for kind in names["CUT"]}
    assert shares["words"] == pytest.approx(0.8)
    assert shares["letters"] == pytest.approx(1 / 3, abs=0.03)
    assert shares["letters"] < shares["40 merges"] < shares["words"]
    for kind in names["CUT"]:
        kept = []
        for keep in names["STRENGTHS"]:
            line, twins = names["noisy_lines"](kind, keep)
            kept.append([where for twin in twins for where, (_, stays) in enumerate(twin) if stays])
            assert all(token == line[where] for twin in twins for where, (token, stays) in enumerate(twin) if stays)
        assert not kept[0]
        assert all(len(before) <= len(after) for before, after in pairwise(kept))
        widest = max(
            sum(len(token) for token, _ in twin)
            for r in names["STRENGTHS"]
            for twin in names["noisy_lines"](kind, r)[1]
        )
        assert widest < 38.3, "no twin runs out of the picture"
    assert abs(0.625**2 - 0.4) < 0.02, "four cases of ten"


def test_every_token_that_is_listened_to_lowers_loss_and_stability(names):
    figure = names["listening"]
    for kind in names["HEARD"]:
        losses, levels = [], []
        for k in names["ORDERS"]:
            frame = figure.data(tokens=kind, k=k)
            keep, curve = frame["table"].T
            assert (curve > keep**k - 0.02).all(), "the floor, up to the error of sampling"
            losses.append(frame["this k"][0, 0])
            levels.append(frame["this k"][0, 1])
            assert math.log(levels[-1]) / math.log(0.8) < k + 0.1
            if k == 0:
                np.testing.assert_allclose(curve, 1)
        assert (np.diff(losses) < 1e-9).all()
        assert (np.diff(levels) < 0.003).all()
    *_, (k, _, curve) = names["HEARD"]["letters"]
    assert curve[names["AT"]] > 5 * 0.8**k, "far above its floor"


def test_the_best_answers_obey_the_equation_and_tip_over(names):
    honest, that, jack = names["honest"], names["that"], names["jack"]
    for gamma, p in zip(names["weights"], names["what_pays"](names["weights"], keep=1), strict=True):
        sure = p[that] > 1e-6
        side = 1 - 2 * gamma * (p[that] - p[that].square().sum())
        torch.testing.assert_close((honest[that] / p[that])[sure], side[sure], atol=2e-3, rtol=0)
    figure = names["price"]
    for paid in names["PAID"]:
        for gamma in (0.0, 0.75, 1.0, 2.0):
            frame = figure.data(paid=paid, gamma=gamma)
            said, true = frame["said"], frame["honest"][:, 1]
            if gamma <= 1:
                np.testing.assert_allclose(said, true, atol=0.025)
            if gamma == 2:
                assert (said[0] > 0.6) == (paid == "agreement, no noise")
            if paid.startswith("agreement"):
                assert frame["said after Jack"][0] > 0.98
                assert gamma == 0 or said[0] > true[0], "what it likes it overstates"
            elif gamma >= 1:
                assert frame["said after Jack"][0] < 0.95
    assert true[0] == pytest.approx(honest[that, jack].item())
    assert (true > 0).all()
    assert len(true) == int((honest[that] > 0).sum()) == 13


def test_a_penalty_on_the_rhyme_pays_what_autograd_says(names):
    """The multiplicative steps come to rest where the gradient of loss and penalty vanishes."""
    honest, often = names["honest"], names["often"]
    for gamma, keep in ((0.75, 0.625), (-0.75, 0.625), (1.5, 1.0)):
        p = names["what_pays"]([gamma], keep, steps=2000)[0]
        logits = p.log().requires_grad_()
        said = logits.softmax(-1)
        agreement = (said * (keep * said + (1 - keep) * said.mean(0))).sum(-1)
        loss = -(honest * logits.log_softmax(-1)).sum(-1) - gamma * agreement
        (slope,) = torch.autograd.grad((often * loss).sum(), logits)
        assert slope.abs().max() < 1e-4


def test_a_fair_coin_is_broken_from_gamma_one_on():
    grid = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=torch.float64)
    for gamma, whole in ((0.9, True), (1.1, False)):
        cost = -(grid.log() + (1 - grid).log()) / 2 - gamma * (grid.square() + (1 - grid).square())
        assert (abs(grid[cost.argmin()] - 0.5) < 0.01) == whole
    for gamma, pays in ((0.45, False), (0.55, True)):  # the exercise: doubting what is certain
        doubt = 1e-3
        assert (-math.log(1 - doubt) + gamma * ((1 - doubt) ** 2 + doubt**2) < gamma) == pays


def test_stability_is_bought_on_ruins_at_one_and_the_same_loss(names):
    figure = names["same_loss"]
    for kind, k in names["BOUGHT"]:
        frame = figure.data(tokens=kind, k=k)
        agree, table, disagree = (frame[who][:, 1] for who in names["PAYMENTS"])
        if k == 1 and kind == "letters":
            np.testing.assert_allclose(agree, table)
            np.testing.assert_allclose(disagree, table)
        elif k > 1:
            assert (agree > table).all()
            assert (table > disagree).all()
    apart = {
        k: np.subtract(found["paid for agreement"], found["paid for disagreement"])[3]
        for (kind, k), found in names["BOUGHT"].items()
        if kind == "letters"
    }
    assert apart[2] < apart[4] < apart[6]
    letters = names["letters"]
    for sign in (1, -1):
        same = names["for_the_money"](letters, letters.windows[:300], 6, 0.625, sign)
        np.testing.assert_array_equal(same, letters.answers(letters.windows[:300], 6))


def test_what_is_said_to_ruins_pays_more_than_anything_else(names):
    """The answer for the money against random answers, on ruins of one text drawn as the chapter draws them."""
    letters, draws = names["letters"], np.random.default_rng(5)
    x = np.repeat(letters.windows, 4, 0)
    y = np.where(draws.random(x.shape) < 0.625, x, draws.integers(len(letters.names), size=x.shape))
    own = letters.answers(x, 2)
    pay = {}
    for name, said in (
        ("best", names["for_the_money"](letters, y, 2, 0.625, 1)),
        ("table", letters.answers(y, 2)),
        ("worst", names["for_the_money"](letters, y, 2, 0.625, -1)),
    ):
        pay[name] = (own * said).sum(1).mean()
    ruin = np.array([tuple(row) not in letters.seen[2] for row in y[:, -2:].tolist()])
    best = names["for_the_money"](letters, y, 2, 0.625, 1)[ruin]
    for _ in range(5):
        other = draws.dirichlet(np.full(len(letters.names), 0.1), size=int(ruin.sum()))
        assert (own[ruin] * best).sum(1).mean() > (own[ruin] * other).sum(1).mean()
    assert pay["best"] > pay["table"] > pay["worst"]


def test_the_plain_network_comes_down_as_it_learns_to_listen(names):
    curve = np.array(names["coming"].state["curve"])
    assert curve[0] > 0.95
    assert curve[-1] < 0.8
    assert (
        names["coming"].twin(
            {
                **names["coming"].state,
                "drawn": np.interp(np.linspace(0, 1, 61), np.linspace(0, 1, len(curve)), curve).tolist(),
            }
        )["score"]
        > 95
    )


def test_what_is_overstated_stays_within_the_bound(names):
    """p - q <= 2 gamma p^2 (1 - p), at the best answers, and two ninths at most for gamma = 3/4."""
    grid = np.linspace(0, 1, 3001)
    most = 2 * 0.75 * grid**2 * (1 - grid)
    assert grid[most.argmax()] == pytest.approx(2 / 3, abs=1e-3)
    assert most.max() == pytest.approx(2 / 9, abs=1e-6)
    for gamma, p in zip(names["weights"], names["what_pays"](names["weights"], keep=1, steps=1000), strict=True):
        assert (p - names["honest"] <= 2 * gamma * p**2 * (1 - p) + 1e-4).all()


def test_the_record_has_the_null_and_the_most_kinds(names):
    kinds = names["kinds_of"]
    assert kinds(names["RUN"]) >= names["NEEDED"]
    assert len(kinds(names["RUN"])) == max(len(kinds(one)) for one in names["usable"])
    own, other = (names["LOSS"][name] for name in ("plain", "plain again"))
    np.testing.assert_array_equal(own[0], other[0])  # the same initial weights
    assert (own[1:] != other[1:]).any(0).all(), "other batches"


def test_races_are_those_of_the_record(names):
    for name, races in names["RACES"].items():
        for share in sorted(set(names["LINES"]) & set(names["FOUND"]["fractions"])):
            theirs = next_token.paired(names["RUN"], names["ARMS"][name], share)
            np.testing.assert_allclose(races[names["LINES"].index(share)].ratios, theirs.ratios, rtol=1e-3)


def test_only_the_last_steps_of_the_way_decide(names):
    figure = names["to_where"]
    for arm in names["RACES"]:
        lines = []
        for share in (0.75, 0.95, 1.0):
            frame = figure.data(arm=arm, share=share)
            lines.append(frame["line"][0, 1])
            shown = np.concatenate([frame[label] for label in ("ratio", "at most") if label in frame])
            assert len(shown) == len(names["LINES"])
            assert frame["here"][0].tolist() in shown.tolist()
        assert (np.diff(lines) < 0).all(), "further along, lower"
    early = [share <= 0.97 for share in names["LINES"]]
    for arm in ("stability", "confidence", "plain again"):
        ratios = np.array([one.ratio for one in names["RACES"][arm]])[early]
        assert (abs(ratios - 1) < 0.1).all()
    widths = [float(one.interval.high / one.interval.low) for one in names["RACES"]["stability"]]
    assert min(widths[-2:]) > max(widths[:4])
    assert names["RACES"]["plain again"][-1].at_most.any()
    assert len(names["RACES"]["stability"][0].ratios) >= 5


def test_at_the_best_every_second_null_fails():
    """Forty looks at two curves of one law: either is as likely to have the lower best."""
    looks = np.random.default_rng(0).normal(size=(2, 4000, 40)).cumsum(-1)
    first, second = looks.min(-1)
    assert (second > first).mean() == pytest.approx(0.5, abs=0.03)


def test_the_words_of_the_findings_follow_the_numbers(names):
    judged = names["LINES"].index(names["JUDGED"])
    found, luck = (names["RACES"][name][judged] for name in ("stability", "plain again"))
    low, high = float(found.interval.low), float(found.interval.high)
    words = names["findings"]()
    first, _, claim, *_ = words.splitlines()
    assert ("as fast as" in first) == (low > 0.9 and high < 1.1 and found.bounded == "exact")
    assert low > 0.9 or "slower than plain" not in first or high < 1
    assert ("by luck alone" in first) == (not float(luck.interval.low) <= 1 <= float(luck.interval.high))
    outside = [names["side"](one, 1.75) == "below" for one in names["RACES"]["stability"]]
    assert ("at any of our lines" in claim) == all(outside)
    assert ("not excluded" in claim) == (not all(outside))
    make = names["acceleration"]
    slow, fast = (
        make([100.0] * 5, [steps] * 4 + [steps + 1], plain_last=500, changed_last=500) for steps in (150.0, 40.0)
    )
    assert (names["side"](slow), names["side"](fast), names["side"](fast, 1.75)) == ("below", "above", "above")
    never = make([100.0] * 5, [60.0] * 4 + [math.nan], plain_last=500, changed_last=70)
    assert (names["side"](never), names["side"](never, 1.75)) == ("around", "below"), (
        "a bound from above excludes only what lies above"
    )


def test_paid_for_stability_a_network_falls_and_climbs_back_at_the_same_perplexity(names):
    figure, keep = names["dials"], names["KEPT"]
    frame = figure.data(arm="stability", keep=keep)
    plain, paid = frame["plain, stability"][:, 1], frame["stability, stability"][:, 1]
    assert plain[-1] < plain[0] - 0.2
    assert paid.min() < paid[0] - 0.1, "it learns to listen"
    assert paid[-1] > max(paid.min(), plain[-1]) + 0.1, "and then its stability climbs back"
    np.testing.assert_allclose(frame["stability, perplexity"][:, 1], frame["plain, perplexity"][:, 1], rtol=0.1)
    control = figure.data(arm="confidence", keep=keep)
    assert abs(control["confidence, stability"][-1, 1] - plain[-1]) < 0.1, "no more stable"
    luck = names["stable_ends"]("plain again").mean() - names["stable_ends"]("plain").mean()
    assert abs(luck) < 0.05
    for other, shown in (("stability", frame), ("confidence", control)):
        assert shown[f"{other}, too sure by"][-5:, 1].mean() > shown["plain, too sure by"][-5:, 1].mean()
    for name, one in names["TAILS"].items():
        assert one[1] <= one[0] <= one[2], name
    if "twin fixed" in names["ARMS"]:
        ends = {name: names["stable_ends"](name).mean() for name in names["ARMS"]}
        assert abs(ends["twin fixed"] - ends["plain"]) < 0.05
    if "instability" in names["ARMS"]:
        assert figure.data(arm="instability", keep=keep)["instability, stability"][-1, 1] < plain[-1] - 0.1


def test_only_who_is_paid_for_stability_shouts_at_ruins(names):
    figure = names["text_and_ruin"]
    for arm in set(names["ARMS"]) - {"instability"}:
        frame = figure.data(arm=arm, keep=names["KEPT"])
        factor = frame["ruins"][-5:, 1].mean() / frame["texts"][-5:, 1].mean()
        assert factor > 2 if arm == "stability" else 0.75 < factor < 1.33, arm
    worse = [figure.data(arm="stability", keep=keep)["ruins"][-1, 1] for keep in names["SOME"]]
    assert (np.diff(worse) < 0).all(), "the worse the ruin, the surer"


def test_the_most_stable_network_is_the_least_stable_one_by_the_cosine(names):
    figure, arms = names["versions"], list(names["VERSIONS"])
    assert {"plain", "stability", "confidence"} <= set(arms)
    for version in ("normalised", "raw", "cosine"):
        frame = figure.data(version=version)
        others = [frame[name][:, 1] for name in arms if name != "stability"]
        if version == "cosine":
            assert (frame["stability"][1:, 1] < np.min(others, 0)[1:]).all()
            assert (frame["stability"][3:-1, 1] < np.min(others, 0)[3:-1] - 0.05).all()
            assert max(frame[name][:, 1].max() for name in arms) <= 1
        else:
            assert (frame["stability"][:, 1] > np.max(others, 0)).all()
    assert "opposite" in names["what_was_bought"]()


def test_who_is_paid_is_less_calibrated(names):
    figure, errors = names["reliability"], {name: np.mean(found) for name, found in names["ERRORS"].items()}
    for arm in ("stability", "confidence"):
        assert errors[arm] > errors["plain"]
        frame = figure.data(arm=arm)
        sure = {who: frame[f"{who}, share"][frame[f"{who}, share"][:, 0] > 0.4, 1].sum() for who in ("plain", "shown")}
        assert sure["shown"] > sure["plain"], "more of its answers are sure ones"
        p, right = frame["shown, right"][frame["shown, right"][:, 0] > 0.4].T
        curve = frame["paid for confidence, at most"]
        assert (right < np.interp(p, *curve.T)).all(), "below the curve where it is sure"
        np.testing.assert_allclose(curve[:, 1], curve[:, 0] * (1 - 1.5 * curve[:, 0] * (1 - curve[:, 0])))
        below = p - right
        assert below.max() > (np.subtract(*frame["shown, right"].T)[frame["shown, right"][:, 0] < 0.3]).max()
    for name, (confidence, accuracy, share) in names["BINS"].items():
        assert share.sum() == pytest.approx(1)
        error = np.nansum(np.abs(confidence - accuracy) * share)
        assert error <= errors[name] + 1e-6, "seeds pooled: gaps of opposite signs may cancel"
    confidence, accuracy, share = names["BINS"]["plain"]
    assert np.nansum((confidence > accuracy) * share) > 0.8, "too sure nearly everywhere"


def test_the_twin_is_more_stable_and_shouts_at_ruins(names):
    words = names["shouting"]()
    if names["TWIN"] is None:
        assert names["twins"] is None
        assert "nothing to compare" in words
        return
    gaps = {}
    for version in ("normalised", "raw", "centred"):
        frame = names["twins"].data(version=version)
        keep, gaps[version] = frame["char-gpt"][:, 0], frame["stable-char-gpt"][:, 1] - frame["char-gpt"][:, 1]
        assert (gaps[version] > 0).all()
        assert keep[gaps[version].argmax()] <= 0.75, "widest where a quarter of the letters or more are drawn anew"
    assert gaps["centred"][0] < gaps["normalised"][0]
    ids, ruined = names["ids"], names["ruined"]
    sure = {
        name: [one(x).softmax(-1).amax(-1).mean().item() for x in (ids, ruined)] for name, one in names["asked"].items()
    }
    assert sure["char-gpt"][1] < sure["char-gpt"][0]
    assert sure["stable-char-gpt"][1] > sure["char-gpt"][1]
    assert ("The twin shouts" in words) == (sure["stable-char-gpt"][1] > sure["stable-char-gpt"][0] + 0.05)
