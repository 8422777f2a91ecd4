"""Shared by all tests: a device, a browser, and the rule that every skip has a listed reason."""

import os
import tomllib
from pathlib import Path

import pytest

from nslab.cli import find_browser

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as the book: the same bits on any number of cores

HERE = Path(__file__).parent
ALLOWED = {entry["reason"] for entry in tomllib.loads((HERE / "skips.toml").read_text())["skip"]}


QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run"]


class ListedSkips:
    """Turns a skip whose reason is not in skips.toml into a failure, for tests, doctests and whole files."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        return _refuse((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self):
        return _refuse((yield))


def _refuse(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = text.removeprefix("Skipped: ")
        if reason not in ALLOWED:
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that is not in tests/skips.toml: {reason!r}"
    return report


def pytest_configure(config):
    config.pluginmanager.register(ListedSkips())  # as a plugin it also sees the doctests under nslab/


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Each device a test can run on; the CUDA run is skipped, with a listed reason, where there is none."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def fetched():
    """Make sure of a text or a model by name, fetched once; the test is skipped where it cannot be had."""
    from nslab import corpora

    failed = {}

    def need(name):
        if name not in failed:
            failed[name] = False
            try:
                corpora.fetch(name, progress=False)
            except corpora.FetchFailed:
                failed[name] = True
        if failed[name]:
            pytest.skip("real inputs not fetched")

    return need


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    program = find_browser()
    assert program is not None, "no browser found: install Chromium, or set NSLAB_BROWSER to the path of one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=QUIET)
        yield browser
        browser.close()
