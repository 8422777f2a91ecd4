"""What `load` refuses, and the remedy that it names."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from nslab import zoo

ANSWERS = {"gated": (403, "GatedRepo"), "missing": (401, "RepoNotFound"), "old": (404, "RevisionNotFound")}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, by the owner's name."""

    def do_GET(self):
        status, code = ANSWERS.get(self.path.split("/")[1], (404, "RepoNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gated/model", "is gated: accept its terms on .* then log in"),
        ("missing/model", "neither a folder nor a model on the hub"),
        ("old/model", "no such revision"),
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(hub, name, message):
    with pytest.raises(zoo.CannotLoad, match=message) as refusal:
        zoo.load(name)
    assert "\n" not in str(refusal.value)


def test_without_a_network_the_remedy_is_to_connect_once(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(zoo.CannotLoad, match=r"cannot be reached: connect once .* or give a folder"):
        zoo.load("nobody/nothing-of-this-name")


def test_a_folder_that_is_not_there_or_holds_no_model_is_refused(tmp_path):
    with pytest.raises(zoo.CannotLoad, match=r"there is no folder .*: give a folder with config\.json"):
        zoo.load(str(tmp_path / "nothing" / "here"))
    with pytest.raises(zoo.CannotLoad, match=r"config\.json"):
        zoo.load(str(tmp_path))
    with pytest.raises(ValueError, match="name is empty: choose one of char-gpt"):
        zoo.load(" ")
    with pytest.raises(ValueError, match="choose one of char-gpt"):
        zoo.describe("gpt2")


def test_encoder_decoders_and_vision_models_are_refused(tmp_path):
    import transformers as hf

    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2, "d_kv": 4, "vocab_size": 20}
    hf.T5ForConditionalGeneration(hf.T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    with pytest.raises(zoo.CannotLoad, match=r"an encoder-decoder.*The zoo reads causal language models"):
        zoo.load(str(tmp_path / "t5"))
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    hf.ViTModel(hf.ViTConfig(**shape)).save_pretrained(tmp_path / "vit")
    with pytest.raises(zoo.CannotLoad, match=r"ViTModel \(vit\).*zoo\.wrap"):
        zoo.load(str(tmp_path / "vit"))
    shape |= {"vocab_size": 20, "max_position_embeddings": 8}
    hf.BertForSequenceClassification(hf.BertConfig(**shape)).save_pretrained(tmp_path / "classifier")
    with pytest.raises(zoo.CannotLoad, match=r"BertForSequenceClassification.*zoo\.wrap"):
        zoo.load(str(tmp_path / "classifier"))


@pytest.fixture
def copy(folders, tmp_path):
    def make(family):
        return shutil.copytree(folders[family], tmp_path / "copy")

    return make


def change(folder, file, **settings):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_code_from_a_repository_runs_only_when_asked_for(copy):
    folder = copy("gpt2")
    change(folder, "config.json", model_type="their-own", auto_map={"AutoConfig": "theirs.Config"})
    (folder / "theirs.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    with pytest.raises(zoo.CannotLoad, match="read that code, then pass allow_code=True if you trust it"):
        zoo.load(str(folder))
    assert not list(folder.parent.rglob("ran"))


def test_a_vocabulary_that_does_not_match_its_tokenizer_is_refused(fresh):
    module, tokenizer = fresh("llama")
    tokenizer.add_tokens(["extra"])
    with pytest.raises(ValueError, match=r"token 'extra' with id (\d+) and the model \1 embeddings.*load both from"):
        zoo.adopt(module, tokenizer)


def test_weights_and_configuration_of_two_models_are_refused(copy):
    folder = copy("llama")
    change(folder, "config.json", vocab_size=999)
    with pytest.raises(zoo.CannotLoad, match=r"weights of other shapes than its config\.json states"):
        zoo.load(str(folder))


def test_a_checkpoint_without_its_head_is_refused(copy, folders):
    folder = copy("encoder")
    change(folder, "config.json", architectures=["BertForMaskedLM"])
    with pytest.raises(zoo.CannotLoad, match=r"holds no weights for .*predictions.*saved whole"):
        zoo.load(str(folder))


def test_broken_files_are_refused(copy):
    folder = copy("llama")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(zoo.CannotLoad, match=r"could not be loaded .* fetch its files again"):
        zoo.load(str(folder))
    weights.unlink()
    with pytest.raises(zoo.CannotLoad, match=r"could not be loaded .* fetch its files again"):
        zoo.load(str(folder))
    weights.write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(zoo.CannotLoad, match="no usable tokenizer"):
        zoo.load(str(folder))


def test_a_model_that_is_not_entered_at_its_embeddings_is_refused(fresh):
    module, tokenizer = fresh("llama")
    plain = module.forward

    def uses_the_ids_twice(input_ids=None, inputs_embeds=None, **options):
        found = plain(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)
        if input_ids is not None:
            found.logits = found.logits + 1
        return found

    module.forward = uses_the_ids_twice
    with pytest.raises(zoo.CannotLoad, match=r"other outputs from embeddings than from ids.*zoo\.wrap"):
        zoo.adopt(module, tokenizer)
    module.forward = plain
    torch.nn.init.constant_(module.model.norm.weight, float("nan"))
    with pytest.raises(zoo.CannotLoad, match="NaN or infinity on ordinary tokens"):
        zoo.adopt(module, tokenizer)


def test_arguments_that_exclude_each_other_are_refused(folders):
    with pytest.raises(ValueError, match="give one of the two"):
        zoo.load(str(folders["gpt2"]), device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="are for hub names"):
        zoo.load("char-gpt", revision="main")


def test_a_model_without_its_head_or_with_another_is_refused(fresh):
    import transformers as hf

    module, tokenizer = fresh("gpt2")
    with pytest.raises(zoo.CannotLoad, match=r"GPT2Model, which returns no logits: .* AutoModelForCausalLM"):
        zoo.adopt(module.transformer, tokenizer)
    module, tokenizer = fresh("bert")
    with pytest.raises(zoo.CannotLoad, match=r"BertForPreTraining, which returns no logits: .*AutoModelForMaskedLM"):
        zoo.adopt(hf.BertForPreTraining(module.config), tokenizer)


def test_a_causal_model_that_sees_later_tokens_is_refused(fresh):
    import transformers as hf

    module, tokenizer = fresh("bert")
    with pytest.raises(zoo.CannotLoad, match=r"predicts a token from later ones too .*is_decoder=True.*zoo\.wrap"):
        zoo.adopt(hf.BertLMHeadModel(module.config), tokenizer)
    module.config.is_decoder = True
    assert zoo.adopt(hf.BertLMHeadModel(module.config), tokenizer).kind == "causal"


def test_a_missing_package_is_named_with_its_extra(monkeypatch, folders):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    with pytest.raises(zoo.CannotLoad, match=r'accelerate: pip install "nslab\[models\]"'):
        zoo.load(str(folders["gpt2"]), device_map="auto")


def test_a_module_that_is_refused_stays_as_it_was(fresh):
    """Refused in the middle of training, it goes on training."""
    import transformers as hf

    module, tokenizer = fresh("bert")
    module = hf.BertLMHeadModel(module.config).train()
    module.bert.embeddings.eval()
    module.cls.requires_grad_(False)
    before = [part.training for part in module.modules()], [p.requires_grad for p in module.parameters()]
    cache = module.config.use_cache
    with pytest.raises(zoo.CannotLoad, match="predicts a token from later ones too"):
        zoo.adopt(module, tokenizer)
    assert before == ([part.training for part in module.modules()], [p.requires_grad for p in module.parameters()])
    assert module.config.use_cache == cache
    tokenizer.add_tokens([f"extra{n}" for n in range(3)])
    with pytest.raises(ValueError, match="load both from one place"):
        zoo.adopt(module, tokenizer)
    assert before[0] == [part.training for part in module.modules()]


def test_what_is_no_model_of_transformers_is_sent_to_wrap():
    for tokenizer in (None, "words"):
        with pytest.raises(zoo.CannotLoad, match=r"module is Linear, no model of transformers: use zoo\.wrap"):
            zoo.adopt(torch.nn.Linear(2, 2), tokenizer)


def test_special_ids_belong_to_models_without_a_tokenizer(fresh):
    module, tokenizer = fresh("gpt2")
    with pytest.raises(ValueError, match=r"special is \(1,\), mask_id None: the tokenizer knows them"):
        zoo.adopt(module, tokenizer, special=(1,))
    rows = module.get_input_embeddings().num_embeddings
    with pytest.raises(ValueError, match=rf"special and mask_id have \[{rows}\]: ids run from 0 to {rows - 1}"):
        zoo.adopt(module, mask_id=rows)
