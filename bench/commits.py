"""An earlier commit of this repository: its name, and its files in a temporary folder."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.service_process import ROOT

_WRITTEN_BY_BENCH = (":(exclude)bench/results.md", ":(exclude)docs/plots")
"""Paths whose changes do not make a work tree differ from its commit."""


class NoCommit(Exception):
    """There is no such commit here, or no git. The message is one line."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of the repository at `root`. `name` is its abbreviated hash."""

    root: Path
    name: str


def find(reference: str | None = None, *, root: Path = ROOT) -> Commit:
    """The commit that `reference` names: a hash, a tag, a branch. By default the one before this: `HEAD^`, or `HEAD` if
    tracked files have changes.

    Raises:
        NoCommit: If git is missing, or the commit.
    """
    if reference is None:
        reference = "HEAD" if has_changes(root) else "HEAD^"
    parse = ("rev-parse", "--verify", "--short", f"{reference}^{{commit}}")
    return Commit(root, _git(root, *parse, failure=f"no commit {reference} to compare with").decode().strip())


def has_changes(root: Path = ROOT) -> bool:
    """Whether tracked files differ from `HEAD`, those that `make bench` writes aside. Raises NoCommit."""
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN_BY_BENCH)
    return bool(_git(root, *status, failure="no work tree of git to compare").strip())


@contextmanager
def exported(commit: Commit) -> Iterator[Path]:
    """The commit's files in a temporary folder, which is deleted with the block. Raises NoCommit."""
    packed = _git(
        commit.root, "archive", "--format=tar", commit.name, failure=f"{commit.name} cannot be exported"
    )
    with TemporaryDirectory() as folder, tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
        yield Path(folder)


def version_of(tree: Path) -> str:
    """The version that the service in this folder says it has; empty if it says none."""
    command = [sys.executable, str(tree / "app.py"), "--version"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _git(root: Path, *arguments: str, failure: str) -> bytes:
    """The output of a git command. `failure` begins the message if git fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise NoCommit("git is not installed; the comparison with an earlier commit needs it") from None
    if done.returncode:
        reason = (done.stderr.decode().strip() or f"status {done.returncode}").splitlines()[0]
        raise NoCommit(f"{failure}: git says: {reason}")
    return done.stdout
