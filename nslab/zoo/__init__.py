"""Pretrained language models behind one thin class, and the numbers that are asked of them.

    from nslab import zoo
    model = zoo.load("smollm2-135m")
    ids = model.prompts(["The capital of France is"], length=5)
    score = zoo.top_token_score(model, ids)
    print(score.token_text, score.value)

`zoo.load` knows `zoo.names()`, any causal or masked model of the Hugging Face hub, and folders that hold one.
Your own model becomes a `TokenModel` with `zoo.wrap`, or with `zoo.adopt` if it is one of `transformers`.
"""

from nslab.zoo.catalogue import describe, load, names
from nslab.zoo.characters import adopt_characters, char_gpt_from
from nslab.zoo.checks import CannotLoad
from nslab.zoo.hub import adopt
from nslab.zoo.likelihoods import distribution, log_likelihood, perplexity, pooled
from nslab.zoo.models import LanguageModel
from nslab.zoo.scores import Score, top_token_score
from nslab.zoo.wrapping import Wrapped, wrap

__all__ = [
    "CannotLoad",
    "LanguageModel",
    "Score",
    "Wrapped",
    "adopt",
    "adopt_characters",
    "char_gpt_from",
    "describe",
    "distribution",
    "load",
    "log_likelihood",
    "names",
    "perplexity",
    "pooled",
    "top_token_score",
    "wrap",
]
