"""Fine-tuning: a cut run goes on, arms differ in their attention alone, the record's bits are the answers."""

import dataclasses

import numpy as np
import pytest
import torch

from nslab import corpora, records, reruns
from nslab.corpora import Labelled
from nslab.records import RunLog
from nslab.reruns import _noiseformer_answers as reading
from nslab.reruns import _noiseformer_finetuning as finetuning
from nslab.reruns import noiseformer_finetune as study
from nslab.training import TrainingConfig
from nslab.training.classification import logits
from nslab.transformer import TransformerConfig

WORDS = "spam eggs and more knights who say ni bring a shrubbery quite nice".split()  # noqa: SIM905
CLASSES = {"reviews": ("rotten", "fresh"), "sarcasm": (0, 1)}
TINY = study.Config(
    seeds=2,
    tasks=tuple(CLASSES),
    model=TransformerConfig(vocabulary=280, context=24, width=8, layers=2, heads=2),
    pretraining=TrainingConfig(steps=8, batch=4, learning_rate=1e-2, evaluate_every=4),
    fine_tuning=finetuning.FineTuning(epochs=2, batch=8, learning_rate=1e-2),
    arms=("standard", "v2-relative", "untrained"),
    text=("wikipedia",),
    held_out=5,
    save_every=3,
)


def sentences(count, seed):
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, size=draws.integers(1, 7))) for _ in range(count)]


def made_up(name, count=40):
    """The answer is whether the text has "spam"."""
    classes = CLASSES[name]
    items = [Labelled(text, classes["spam" in text]) for text in sentences(2 * count, len(name))]
    return finetuning.Task(items[:count], items[count:], classes, "made up")


@pytest.fixture(autouse=True, scope="module")
def inputs():
    """A text and tasks of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(finetuning.DOCUMENTS, "wikipedia", lambda: [". ".join(sentences(8, k)) for k in range(30)])
        patch.setattr(study, "TASKS", {name: lambda name=name: made_up(name) for name in CLASSES})
        yield


def perform(folder, config=TINY, resume=False):
    experiment = dataclasses.replace(reruns.load("noiseformer-finetune"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    return perform(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def prepared():
    """The text and the examples of one task."""
    text = finetuning.running_text(TINY)
    return text, {"sarcasm": finetuning.examples_of(TINY, made_up("sarcasm"), text, torch.device("cpu"))}


def test_a_run_cut_anywhere_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    """Cut in the first pre-training, and in the first fine-tuning of a network with noise, 28 checkpoints later."""
    real = RunLog.save
    for number, cut in enumerate((2, 34)):
        calls = []

        def save(log, state, calls=calls, cut=cut):
            real(log, state)
            calls.append(state)
            if len(calls) == cut:
                raise KeyboardInterrupt

        monkeypatch.setattr(RunLog, "save", save)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / str(number))
        monkeypatch.setattr(RunLog, "save", real)
        resumed = perform(tmp_path / str(number), resume=True)
        for name in ("config.json", "history.npz", "result.json"):
            assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_record_has_every_answer_and_what_is_counted_from_them(whole):
    result = whole.result
    for task, classes in CLASSES.items():
        held_out = made_up(task).held_out
        truth = reading.labels(whole, task)
        assert truth.tolist() == [classes.index(item.label) for item in held_out]
        told = result["tasks"][task]
        unseen = {(item.text, item.text2) for item in held_out}  # of what is trained on, nothing is asked
        allowed = [item for item in made_up(task).train if (item.text, item.text2) not in unseen]
        assert 0 < len(allowed) < 40
        assert (told["train"], told["held_out"]) == (len(allowed), 40)
        assert told["majority"] == max((truth == 0).sum(), (truth == 1).sum())
        for arm in TINY.arms:
            found, correct = result["arms"][arm]["tasks"][task], reading.answers(whole, task, arm)
            assert correct.shape == (2, 40)
            assert found["right"] == correct.sum(1).tolist()
            guesses = np.where(correct, truth, 1 - truth)
            assert found["answers"] == [[int((one == k).sum()) for k in (0, 1)] for one in guesses]
            for seed, one in enumerate(guesses):
                wanted = np.corrcoef(one, truth)[0, 1] if 0 < one.sum() < 40 else 0
                assert found["matthews"][seed] == pytest.approx(wanted)
            assert np.allclose(reading.each_score(whole, task, arm), correct.mean(1))
            steps, losses = whole.series(f"{arm}_{task}_loss")
            total = TINY.fine_tuning.epochs * (len(allowed) // TINY.fine_tuning.batch)
            every = max(1, total // finetuning.CURVE)
            assert steps.tolist() == list(range(every, total + 1, every))
            assert losses.shape == (len(steps), 2)


def test_arms_are_compared_example_by_example(whole):
    first, second = (reading.answers(whole, "sarcasm", arm) for arm in ("v2-relative", "standard"))
    found = reading.compared(whole, "sarcasm", "v2-relative")
    assert found.each == pytest.approx(first.mean(1) - second.mean(1))
    for one, a, b in zip(reading.mcnemars(whole, "sarcasm", "v2-relative"), first, second, strict=True):
        assert (one.first, one.second) == ((a & ~b).sum(), (b & ~a).sum())
    zero = reading.compared(whole, "reviews", "standard", statistic="matthews")
    assert (zero.difference, float(zero.interval.high)) == (0, 0)


def test_the_same_network_under_another_name_gives_the_same_record_and_other_batches_another(tmp_path, monkeypatch):
    twin = dataclasses.replace(finetuning.ARMS["standard"], says="twin")
    monkeypatch.setitem(finetuning.ARMS, "twin", twin)
    config = dataclasses.replace(TINY, tasks=("sarcasm",), arms=("standard", "twin", "standard-again"))
    arms = perform(tmp_path, config).result["arms"]
    for name in ("pretraining_loss", "tasks", "parameters"):
        assert arms["twin"][name] == arms["standard"][name]
    assert arms["standard-again"]["pretraining_loss"] != arms["standard"]["pretraining_loss"]
    assert arms["standard-again"]["parameters"] == arms["standard"]["parameters"]


def test_all_arms_have_one_width_so_that_tied_ones_have_fewer_parameters(whole):
    arms = whole.result["arms"]
    saved = arms["standard"]["parameters"] - arms["v2-relative"]["parameters"]
    noise = 2 * 2 * 2 * 24  # layers, mean and log sigma, heads, offsets
    assert saved == 2 * (8 * 8 + 8) - noise  # each layer a matrix of keys and its biases
    assert arms["untrained"]["parameters"] == arms["standard"]["parameters"]


def test_what_is_not_pre_trained_starts_from_the_initial_weights(whole):
    """Its held-out loss is that of the initial network, near a uniform guess; that of the others is not."""
    arms = whole.result["arms"]
    assert arms["untrained"]["pretraining_loss"] == pytest.approx([np.log(280)] * 2, abs=0.02)
    assert max(arms["standard"]["pretraining_loss"]) < np.log(280) - 0.2


def fine_tuned(arm, sides, beta=1e-3, seed=0):
    config = dataclasses.replace(TINY, beta=beta)
    body = finetuning.ARMS[arm].network(TINY.model, seed)
    before = {name: weight.clone() for name, weight in body.named_parameters()}
    model = finetuning.fine_tuned(
        config, finetuning.ARMS[arm], body, sides["sarcasm"][0], seed, seed, lambda trainer: trainer.run()
    )
    assert all(torch.equal(weight, before[name]) for name, weight in body.named_parameters())  # a copy was trained
    return model.eval()


def test_noise_is_drawn_in_training_and_takes_its_mean_when_asked(prepared):
    model, held_out = fine_tuned("v2-relative", prepared[1]), prepared[1]["sarcasm"][1]
    with model.body.noise("mean"):
        wanted = logits(model, held_out)
    assert torch.equal(logits(model, held_out), wanted)
    with model.body.noise("sample", torch.Generator().manual_seed(0)):
        assert not torch.equal(logits(model, held_out), wanted)
    truth = held_out.labels.numpy()
    found = finetuning.asked(model, held_out)
    assert found["right"] == int((wanted.argmax(1).numpy() == truth).sum())
    assert found["loss"] == pytest.approx(float(-wanted.log_softmax(1).gather(1, held_out.labels[:, None]).mean()))
    steps = TINY.fine_tuning.epochs * (len(prepared[1]["sarcasm"][0]) // TINY.fine_tuning.batch)
    assert int(model.body.get_extra_state()[1]) == steps  # one draw of noise a step


def test_the_kl_holds_the_noise_in_fine_tuning_too(prepared):
    free, held = (fine_tuned("v2-relative", prepared[1], beta).body.kl().item() for beta in (0, 10))
    assert held < free - 0.02


def test_fewer_examples_are_the_same_for_all_and_keep_their_order(prepared):
    config = dataclasses.replace(TINY, fine_tuning=dataclasses.replace(TINY.fine_tuning, examples=15))
    few, _ = finetuning.examples_of(config, made_up("sarcasm"), prepared[0], torch.device("cpu"))
    rows = [tuple(row) for row in prepared[1]["sarcasm"][0].ids.tolist()]
    kept = [tuple(row) + (-1,) * (len(rows[0]) - len(row)) for row in few.ids.tolist()]
    assert len(few) == 15
    remaining = iter(rows)
    assert all(row in remaining for row in kept)  # a subsequence


def test_running_text_holds_whole_documents_out(prepared):
    text = prepared[0]
    documents = [". ".join(sentences(8, k)) for k in range(30)]
    assert text.encoding.decode(text.held_out) == "\n\n".join(documents[4::5])
    rest = [one for number, one in enumerate(documents, start=1) if number % 5]
    assert text.encoding.decode(text.train) == "\n\n".join(rest)


def test_it_runs_on_every_device(device, tmp_path, prepared):
    text, sides = prepared
    sides = {name: tuple(part.to(device) for part in parts) for name, parts in sides.items()}
    found = finetuning.one_network(TINY, finetuning.ARMS["v2-relative"], True, text, sides, 0, RunLog(tmp_path), device)
    assert 0 <= found["sarcasm"]["right"] <= 40
    assert np.isfinite(found["pretraining_loss"])


def test_a_film_is_on_one_side_and_plots_are_left_out(fetched):
    fetched("reviews")
    task = study.review_task()
    films = [{item.group for item in part} for part in (task.train, task.held_out)]
    assert not films[0] & films[1]
    assert {item.label for part in (task.train, task.held_out) for item in part} == set(task.classes)
    put_aside = study.review_task("validation").held_out
    assert not {item.group for item in put_aside} & (films[0] | films[1])


def test_headlines_are_split_by_themselves_alone(monkeypatch):
    items = [Labelled(f"headline {k}", k % 2) for k in range(4000)]
    monkeypatch.setattr(corpora, "sarcasm", lambda: items)
    test, validation = study.sarcasm_task(), study.sarcasm_task("validation")
    parts = [test.train, validation.held_out, test.held_out]
    assert sorted(item.text for part in parts for item in part) == sorted(item.text for item in items)
    shares = [len(part) / 4000 for part in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    monkeypatch.setattr(corpora, "sarcasm", lambda: items[::3])
    assert set(study.sarcasm_task().held_out) == set(test.held_out) & set(items[::3])


def result_of(right, held_out=100, majority=50):
    tasks = {"sarcasm": {"held_out": held_out, "majority": majority}}
    return {"tasks": tasks, "arms": {"standard": {"tasks": {"sarcasm": {"right": right}}}}}


def test_the_phenomenon_is_a_lead_of_two_standard_errors_over_the_majority():
    assert reading.beats_majority(result_of([60, 61])) is None  # 50 + 2 sqrt(100 * 0.6 * 0.4) = 59.8
    assert "sarcasm: 59.0 of 100, wanted over 59.8" in reading.beats_majority(result_of([57, 61]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ("poems",)}, "tasks has 'poems': there are reviews, sarcasm"),
        ({"tasks": ()}, "tasks has '': there are reviews, sarcasm"),
        ({"arms": ("standard", "v3")}, "arms has 'v3': choose from standard, standard-again, symmetric"),
        ({"arms": ("symmetric",)}, "arms is symmetric: add standard"),
        ({"text": ("dreams",)}, "text has 'dreams': there are wikipedia, openwebtext"),
    ],
)
def test_bad_settings_are_named_with_what_there_is(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        perform(tmp_path, dataclasses.replace(TINY, **changes))


def test_bad_questions_to_a_record_are_named_with_what_there_is(whole):
    with pytest.raises(ValueError, match="task is 'cola': the record has reviews, sarcasm"):
        reading.labels(whole, "cola")
    with pytest.raises(ValueError, match="arm is 'v3': the record has standard, v2-relative, untrained"):
        reading.answers(whole, "reviews", "v3")


def test_labels_outside_the_classes_are_named(tmp_path, monkeypatch):
    task = dataclasses.replace(made_up("sarcasm"), held_out=[Labelled("spam", 2)])
    monkeypatch.setitem(study.TASKS, "sarcasm", lambda: task)
    with pytest.raises(ValueError, match=r"items\[0\] has the label 2: the classes are 0, 1"):
        perform(tmp_path)
