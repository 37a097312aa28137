"""Pictures that a test looks at."""

from pathlib import Path

from PIL import Image


def format_of(path: str | Path) -> str | None:
    """The format of a picture by its content, such as `PNG`."""
    with Image.open(path) as picture:
        return picture.format


def is_the_black_picture(path: str | Path) -> bool:
    """Whether it is black and 1600 pixels wide and 900 high."""
    with Image.open(path) as picture:
        return picture.size == (1600, 900) and picture.convert("L").getextrema() == (0, 0)
