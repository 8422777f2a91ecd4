"""The partner tasks: who must say what, and what looking evenly and pointing reach, by enumeration."""

import itertools

import pytest
import torch

from nslab.tasks.partners import Partners


@pytest.mark.parametrize(("kinds", "payloads"), [(2, 2), (2, 8), (3, 3), (3, 8), (4, 2)])
def test_every_order_and_content_stands_once_and_each_says_what_its_partner_holds(kinds, payloads):
    task = Partners(kinds, payloads)
    told = {}
    for x, y in zip(task.questions.tolist(), task.answers.tolist(), strict=True):
        held = dict(x)
        assert y == [held[(kind + 1) % kinds] for kind, _ in x]
        told[tuple(map(tuple, x))] = y
    orders = itertools.permutations(range(kinds))
    contents = list(itertools.product(range(payloads), repeat=kinds))
    expected = {tuple(zip(order, content, strict=True)) for order in orders for content in contents}
    assert set(told) == expected
    assert len(task.questions) == len(expected)


def test_draws_are_uniform_repeatable_and_follow_the_generator(device):
    task = Partners(3, 2)
    x, y = task.draw(24_000, generator=torch.Generator(device).manual_seed(0))
    again, _ = task.draw(24_000, generator=torch.Generator(device).manual_seed(0))
    assert torch.equal(x, again)
    assert x.device.type == y.device.type == device.type
    assert torch.equal(y, task.answers_to(x))
    counts = x.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(counts) == 48
    assert int((counts - 500).abs().max()) < 5 * 500**0.5


@pytest.mark.parametrize(("kinds", "payloads"), [(2, 2), (2, 8), (3, 2), (3, 8), (4, 3), (5, 2)])
def test_looking_evenly_gives_all_tokens_one_answer(kinds, payloads):
    """Enumeration: the best one answer to all tokens is the payload that most of them hold."""
    contents = list(itertools.product(range(payloads), repeat=kinds))
    hits = sum(max(content.count(c) for c in content) for content in contents)
    assert Partners(kinds, payloads).looking_evenly() == pytest.approx(hits / (kinds * len(contents)), abs=1e-15)


def test_the_values_in_the_text():
    opposites, rock = Partners(2), Partners(3)
    assert (opposites.name, rock.name, Partners(4).name) == ("opposites", "rock-paper-scissors", "circle of 4")
    assert (opposites.looking_evenly(), rock.looking_evenly()) == (9 / 16, 29 / 64)
    assert (opposites.looking_evenly(seen=1), rock.looking_evenly(seen=2)) == (1, 9 / 16)
    assert (opposites.pointing(1), rock.pointing(2)) == (9 / 16, 17 / 24)
    assert (rock.pointing(0), rock.pointing(3)) == (1 / 8, 1)


@pytest.mark.parametrize(("kinds", "right"), [(2, 0), (2, 1), (3, 1), (3, 2)])
def test_pointing_at_the_partner_or_at_oneself(kinds, right):
    """Enumeration: the first kinds answer with their partner's payload, the others with their own."""
    task = Partners(kinds)
    kind, content = task.questions.unbind(-1)
    said = torch.where(kind < right, task.answers, content)
    assert float((said == task.answers).double().mean()) == pytest.approx(task.pointing(right))


def test_bad_input_names_the_remedy():
    for bad in ({"kinds": 1}, {"kinds": 2, "payloads": 1}):
        with pytest.raises(ValueError, match=r"is 1: give at least 2"):
            Partners(**bad)
    with pytest.raises(ValueError, match=r"seen is 3: it counts tokens, so give 1 to 2"):
        Partners(2).looking_evenly(seen=3)
    with pytest.raises(ValueError, match=r"right is 4: it counts kinds, so give 0 to 3"):
        Partners(3).pointing(4)
