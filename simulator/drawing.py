"""Draws pictures: a soft gradient with the prompt written on it.

The prompt, seed and model on a picture show which request it belongs to. The colours come from prompt and seed, so two
pictures are equal exactly when their requests were. A line at the bottom says that the picture is simulated.

Drawing is the only expensive work of the simulator. So Pillow scales a few colours up to the gradient, and encoders run
at their fastest setting.
"""

import colorsys
import io
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

LONG_SIDE = 512
CONTENT_TYPES = {"webp": "image/webp", "jpg": "image/jpeg", "png": "image/png"}

_FONTS = ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
_INK = (255, 255, 255)
_LONGEST_TEXT = 600


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to draw. `text` is the prompt, `foot` the small line below it, `quality` is 0 to 100."""

    text: str
    foot: str
    seed: int
    width: int
    height: int
    format: str = "webp"
    quality: int = 80


def size(aspect_ratio: object) -> tuple[int, int]:
    """Width and height of an `a:b` ratio; a square for anything else."""
    across, _, down = str(aspect_ratio).partition(":")
    if not (across.isdigit() and down.isdigit() and int(across) and int(down)):
        return LONG_SIDE, LONG_SIDE
    scale = LONG_SIDE / max(int(across), int(down))
    return max(16, round(int(across) * scale)), max(16, round(int(down) * scale))


@lru_cache(maxsize=64)
def encode(picture: Picture) -> bytes:
    """The picture as a file in its format."""
    image, file = draw(picture), io.BytesIO()
    match picture.format:
        case "png":
            image.save(file, "PNG", compress_level=1)
        case "jpg":
            image.save(file, "JPEG", quality=max(1, picture.quality))
        case _:
            image.save(file, "WEBP", quality=picture.quality, method=0)
    return file.getvalue()


def draw(picture: Picture) -> Image.Image:
    """The picture in RGB."""
    image = _gradient(picture)
    pen = ImageDraw.Draw(image)
    margin = max(8, min(image.size) // 12)
    foot = _font(max(9, min(image.size) // 36))
    below = int(foot.size * 2.2)
    room = (image.width - 2 * margin, image.height - 2 * margin - below)
    font, lines = _fitted(picture.text[:_LONGEST_TEXT], *room)
    step = font.size * 1.28
    top = (image.height - below - step * len(lines)) / 2 + step / 2
    shade = _shadow(image)
    for number, line in enumerate(lines):
        _write(pen, (image.width / 2, top + number * step), line, font, shade)
    signature = _cut(picture.foot, foot, image.width - 12)
    _write(pen, (image.width / 2, image.height - below * 0.75), signature, foot, shade)
    return image


def _gradient(picture: Picture) -> Image.Image:
    """Nine neighbouring colours of the colour wheel, scaled up to a gradient."""
    chance = random.Random(f"{picture.text}\0{picture.seed}")  # noqa: S311 - colours, not secrets
    hue, spread = chance.random(), chance.uniform(0.1, 0.22) * chance.choice((-1, 1))
    coarse = Image.new("RGB", (3, 3))
    for place in range(9):
        along = (place % 3 + place // 3) / 4
        shade = colorsys.hls_to_rgb(
            (hue + spread * along + chance.uniform(-0.03, 0.03)) % 1,
            chance.uniform(0.26, 0.33) + 0.2 * (1 - along),
            chance.uniform(0.38, 0.5),
        )
        red, green, blue = (round(255 * part) for part in shade)
        coarse.putpixel((place % 3, place // 3), (red, green, blue))
    # The box leaves out the rim of flat colour that scaling puts at the edges.
    return coarse.resize((picture.width, picture.height), Image.Resampling.BICUBIC, box=(0.4, 0.4, 2.6, 2.6))


def _shadow(image: Image.Image) -> tuple[int, int, int]:
    """The colour of the letters' shadow: the average of the gradient, at half its brightness."""
    middle = image.resize((1, 1), Image.Resampling.BOX).tobytes()
    return middle[0] // 2, middle[1] // 2, middle[2] // 2


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    line: str,
    font: ImageFont.FreeTypeFont,
    shade: tuple[int, int, int],
) -> None:
    off = max(1, round(font.size / 20))
    pen.text((at[0], at[1] + off), line, fill=shade, font=font, anchor="mm")
    pen.text(at, line, fill=_INK, font=font, anchor="mm")


def _fitted(text: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The largest font in which `text` fits, and the lines of `text`."""
    largest = max(12, min(width, height) // 10)
    for points in (largest, largest * 4 // 5, largest * 3 // 5, largest * 2 // 5, 11):
        font = _font(max(11, points))
        lines = _wrapped(text, font, width)
        if len(lines) * font.size * 1.28 <= height:
            return font, lines
    room = max(1, int(height / (font.size * 1.28)))
    return font, [*lines[: room - 1], "…"]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _cut(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while line and font.getlength(line) > width:
        line = line[:-1]
    return line


@lru_cache(maxsize=32)
def _font(points: int) -> ImageFont.FreeTypeFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, points)
        except OSError:
            continue
    # Pillow brings a font, for machines without these.
    default = ImageFont.load_default(points)
    if not isinstance(default, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, which drawing text needs")
    return default
