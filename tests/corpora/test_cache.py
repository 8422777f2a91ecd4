"""Where the cache is: the folder named, else the platform's own, else a word to the user."""

import sys
from pathlib import Path

import pytest

from nslab import corpora


def test_a_user_without_a_home_folder_is_told_to_name_a_cache(monkeypatch):
    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    for variable in ("NSLAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setattr(sys, "platform", "linux")
    for named in ("", "~/cache"):
        monkeypatch.setenv("NSLAB_CACHE", named)
        with pytest.raises(corpora.NotFetched, match=r"no home folder .*set NSLAB_CACHE to a folder"):
            corpora.shakespeare()


def test_the_cache_is_the_named_folder_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv("NSLAB_CACHE", "~/here")
    assert corpora.cache_folder() == Path.home() / "here"
    monkeypatch.delenv("NSLAB_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpora.cache_folder() == tmp_path / "nslab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert corpora.cache_folder() == Path.home() / ".cache" / "nslab"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert corpora.cache_folder() == Path.home() / "Library" / "Caches" / "nslab"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert corpora.cache_folder() == tmp_path / "nslab" / "Cache"
