"""The same names through the Hugging Face hub, for those who have `datasets` and a network.

The hub's texts are neighbours of the packages' texts, rarely the same: `HUB` says for each how they differ. Numbers
measured on one are not numbers of the other. What is fetched stays in the hub's own cache; set HF_HUB_OFFLINE=1 to
work from that cache alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class HubText:
    """Where a name is found on the hub.

    Attributes:
        dataset: id on the hub.
        config: its configuration, or None.
        splits: the splits it has and that we read.
        text: column of the text.
        label: column of the label, or None.
        differs: how the text differs from that of the package.
        revision: branch, or None for the main one.
        streaming: read row by row, where the whole would be far larger than what is used; not kept in the cache.
    """

    dataset: str
    config: str | None
    splits: tuple[str, ...]
    text: str
    label: str | None
    differs: str
    revision: str | None = None
    streaming: bool = False


HUB = {
    "shakespeare": HubText(
        "karpathy/tiny_shakespeare",
        None,
        ("train", "validation", "test"),
        "text",
        None,
        "tiny Shakespeare: 1.1 million characters of 65 symbols, parts of the plays in another layout, no play borders",
        revision="refs/convert/parquet",
    ),
    "wikipedia": HubText(
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        ("train", "validation", "test"),
        "text",
        None,
        "WikiText-2: paragraphs of other articles, with spaces around punctuation",
    ),
    "openwebtext": HubText(
        "Elriggs/openwebtext-100k",
        None,
        ("train",),
        "text",
        None,
        "whole documents of the same collection, other ones and longer than the package's passages",
        streaming=True,
    ),
    "reviews": HubText(
        "cornell-movie-review-data/rotten_tomatoes",
        None,
        ("train", "validation", "test"),
        "text",
        "label",
        "10,662 sentences, lower-cased, no plots, no film names: its splits may share films",
    ),
    "sarcasm": HubText(
        "raquiba/Sarcasm_News_Headline",
        None,
        ("train", "test"),
        "headline",
        "is_sarcastic",
        "headlines of the same two sources, in two splits that may overlap",
    ),
}


class HubFailed(RuntimeError):
    """The hub did not give a dataset. The message names the dataset, the cause and what to do."""


def entry(name: str) -> HubText:
    """The row of `HUB` for a name. Errors: `ValueError` for a name that is not on the hub, with those that are."""
    if name not in HUB:
        raise ValueError(f"{name!r} is not read from the hub: {', '.join(HUB)} are")
    return HUB[name]


def rows(
    dataset: str,
    config: str | None,
    split: str,
    *,
    revision: str | None = None,
    streaming: bool = False,
    limit: int | None = None,
) -> Iterator[dict]:
    """The rows of one split, as dictionaries.

    Args:
        dataset: id on the hub.
        config: its configuration, or None.
        split: one of its splits.
        revision: branch or commit.
        streaming: read as the rows are asked for, keeping nothing.
        limit: at most so many rows.

    Errors: `ImportError` without `datasets`; `HubFailed` when the dataset is missing, gated, or out of reach.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError('reading from the hub needs datasets: pip install "nslab[hub]"') from None
    try:
        found = datasets.load_dataset(dataset, config, split=split, revision=revision, streaming=streaming)
        yield from islice(found, limit)
    except Exception as error:  # the hub, its client and its transport fail in many ways; each is explained
        raise HubFailed(_explained(dataset, config, error)) from error


def texts(name: str, split: str | None = None, limit: int | None = None) -> list[tuple[str, int | None]]:
    """Texts of a name of `HUB` with their labels (None where there are none): one split, or all one after the other.

    Errors: `ValueError` for an unknown name or split; else as `rows`.
    """
    found = entry(name)
    if split is not None and split not in found.splits:
        raise ValueError(f"split is {split!r}: {name} on the hub has {', '.join(found.splits)}")
    result = []
    for part in (split,) if split else found.splits:
        left = None if limit is None else limit - len(result)
        part_rows = rows(
            found.dataset, found.config, part, revision=found.revision, streaming=found.streaming, limit=left
        )
        for row in part_rows:
            missing = [column for column in (found.text, found.label) if column and column not in row]
            if missing:
                raise HubFailed(f"{found.dataset} has no column {missing[0]!r} any more, only {', '.join(row)}")
            result.append((row[found.text], row[found.label] if found.label else None))
    return result


def _explained(dataset: str, config: str | None, error: Exception) -> str:
    what = f"the hub dataset {dataset}" + (f" ({config})" if config else "")
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "gated" in said.lower() or "GatedRepoError" in kinds:
        remedy = "accept its terms on its page, then run `hf auth login`"
    elif "OfflineModeIsEnabled" in kinds or "OfflineModeIsEnabled" in said:
        remedy = "it is not in the hub's cache: unset HF_HUB_OFFLINE and fetch it once with a network"
    elif kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        remedy = "it was moved or removed, or is private: look for it on the hub, or run `hf auth login`"
    elif kinds & {"ConnectionError", "ConnectError", "TimeoutError", "TransportError"}:
        remedy = 'look at the network, or use source="package" or a folder, which need none'
    else:
        remedy = "look at its page on the hub"
    return f"{what} cannot be read ({said}): {remedy}"
