"""Tiny random models of several families, saved as folders with real tokenizers, and the pretrained ones."""

import os

import pytest
import torch

from nslab import zoo

TOLERANCES = {
    "same sum": 1e-5,  # float32, the same formula with other matrix shapes
    "derivative": 1e-6,  # float64 gradient against central differences
    "conversion": 1e-4,  # nats: loss through our file against the loss through the package's
}
TEXT = """Once upon a time there was a small network that read every word twice.
It liked the first word and the last word, and it hardly cared about the others.
Who decides which word matters? The network did; nobody asked the words."""
CONTEXT = 24
SHAPE = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}


@pytest.fixture(scope="session")
def tolerance():
    return TOLERANCES


def byte_level(special):
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT], vocab_size=330, special_tokens=special, show_progress=False)
    return trained._tokenizer


def word_pieces():
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator([TEXT], vocab_size=120, show_progress=False)
    return trained._tokenizer


def around(inner, first, last):
    """The tokenizer, now with a token before and one after every text."""
    from tokenizers.processors import TemplateProcessing

    places = [(one, inner.token_to_id(one)) for one in (first, last)]
    inner.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=places)
    return inner


def tokenizer_of(family):
    from transformers import PreTrainedTokenizerFast

    if family in ("bert", "encoder"):
        names = {f"{key}_token": f"[{key.upper()}]" for key in ("pad", "unk", "cls", "sep", "mask")}
        return PreTrainedTokenizerFast(tokenizer_object=around(word_pieces(), "[CLS]", "[SEP]"), **names)
    if family == "roberta":
        names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}
        inner = around(byte_level(list(names.values())), "<s>", "</s>")
        return PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(["<end>"]), eos_token="<end>")


def module_of(family, vocabulary):
    import transformers as hf

    common = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT, "initializer_range": 0.5}
    if family == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 16, "n_head": 4, "n_positions": CONTEXT}
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=vocabulary, initializer_range=0.5, **sizes))
    if family == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**common, **SHAPE, num_key_value_heads=2))
    if family == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**common, **SHAPE))
    if family == "roberta":
        positions = {"max_position_embeddings": CONTEXT + 2}  # numbering starts after the padding id, 1
        return hf.RobertaForMaskedLM(hf.RobertaConfig(**(common | positions), **SHAPE, pad_token_id=1, bos_token_id=0))
    return hf.BertModel(hf.BertConfig(**common, **SHAPE))


FAMILIES = {"gpt2": "causal", "llama": "causal", "bert": "masked", "roberta": "masked", "encoder": "encoder"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Family to the folder of a tiny random model of it."""
    made = {}
    for family in FAMILIES:
        made[family] = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        tokenizer = tokenizer_of(family)
        module_of(family, len(tokenizer)).save_pretrained(made[family])
        tokenizer.save_pretrained(made[family])
    return made


@pytest.fixture(scope="session")
def fresh():
    """Makes a random module and a tokenizer of a family, in memory; `more` rows without a token."""

    def make(family, more=0):
        tokenizer = tokenizer_of(family)
        torch.manual_seed(0)
        return module_of(family, len(tokenizer) + more), tokenizer

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def model(request, folders):
    """Each family, in float64, so that comparisons are about formulas."""
    return zoo.load(str(folders[request.param]), dtype=torch.float64)


@pytest.fixture(scope="session")
def random_ids():
    """Ordinary tokens of a model, (rows, length)."""

    def draw(model, rows=3, length=9, seed=0):
        usual = torch.tensor([token for token in range(model.vocabulary) if token not in model.special])
        generator = torch.Generator().manual_seed(seed)
        return usual[torch.randint(len(usual), (rows, length), generator=generator)].to(model.device)

    return draw


@pytest.fixture(scope="session")
def stories():
    if not os.environ.get("NSLAB_MODELS"):
        pytest.skip("shared data absent")
    return zoo.load("stories260k")


@pytest.fixture(scope="session")
def smollm2(fetched):
    fetched("smollm2-135m")
    return zoo.load("smollm2-135m")


@pytest.fixture(scope="session")
def minilm(fetched):
    fetched("minilm")
    return zoo.load("minilm")
