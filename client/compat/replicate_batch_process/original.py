"""Refuses to work beside the original distribution, which has the same modules in the same directory."""

from importlib.metadata import PackageNotFoundError, distribution

ORIGINAL = "replicate-batch-process"


def refuse_the_original() -> None:
    """Raises ImportError if the original is installed, too: the files of both are mixed then."""
    try:
        version = distribution(ORIGINAL).version
    except PackageNotFoundError:
        return
    raise ImportError(
        f"{ORIGINAL} {version} and {ORIGINAL}-compat are both installed, and their modules have the same names. "
        f"Keep one: `pip uninstall -y {ORIGINAL} {ORIGINAL}-compat`, and then install the one that you want."
    )
