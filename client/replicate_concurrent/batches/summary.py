"""Writes the summary of a batch for people: `failures.csv`, and an HTML page with all pictures."""

import csv
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import quote

from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.filenames import with_suffix

FAILURES: Final = "failures.csv"
_COLUMNS: Final = ("index", "row", "model", "prompt", "code", "detail", "generation")
CONTACT_SHEET: Final = "contact-sheet.html"

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet reads as a formula."""

_KINDS: Final = {
    "img": {"jpg", "jpeg", "png", "webp", "gif", "avif", "svg"},
    "video": {"mp4", "webm", "mov"},
    "audio": {"mp3", "wav", "ogg", "flac", "m4a"},
}

_PAGE_MARK: Final = "<!doctype html><!-- a contact sheet of rcg -->"
"""The first line of a page, by which a later run knows it as its own."""

_PAGE: Final = """{mark}
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:; media-src 'self' file:; \
style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafafa }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.5rem }}
figure {{ margin: 0 }}
img, video {{ width: 100%; border-radius: 4px; background: #ddd }}
figcaption p {{ margin: .3rem 0; overflow-wrap: anywhere }}
small {{ color: #666 }}
.failed {{ color: #a00 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #181818 }} small {{ color: #999 }} }}
</style>
<h1>{title}</h1>
<p>{facts}</p>
<main>
{figures}
</main>
</html>
"""


@dataclass(frozen=True)
class Outcome:
    """A row and all that is known of it. `line` is None for a row that was not begun."""

    row: Row
    line: Line | None

    @property
    def is_done(self) -> bool:
        return self.line is not None and self.line.is_done

    @property
    def trouble(self) -> str:
        """Why it is not done, for people: empty for a row that is, and for one that still runs."""
        if self.line is None or self.is_done:
            return ""
        if self.line.lost:
            return "; ".join(self.line.lost)
        error = self.line.error or {}
        return str(error.get("detail") or error.get("code") or self.line.status or "")

    @property
    def code(self) -> str:
        """The error code of a row that failed."""
        if self.line is None or self.is_done:
            return ""
        return "output_lost" if self.line.lost else str((self.line.error or {}).get("code", ""))


def failures(outcomes: Iterable[Outcome]) -> str:
    """The failed rows as CSV, with a header."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in outcomes:
        if each.line is not None and each.line.has_failed:
            facts = [each.row.place, each.row.request["model_name"], each.row.request.get("prompt", "")]
            texts = [*facts, each.code, each.trouble, each.line.generation or ""]
            writer.writerow([each.row.index, *(_plain(str(text)) for text in texts)])
    return table.getvalue()


def keep_failures(outcomes: Iterable[Outcome], directory: Path, source: str) -> Path:
    """Write the table of failures, or remove that of an earlier run if there are none. Returns its path:
    `failures_2.csv`, and so on, where `failures.csv` is the input itself (`source`) or another file of the user."""
    path = _own(directory, FAILURES, ",".join(_COLUMNS), source)
    listed = list(outcomes)
    if any(each.line is not None and each.line.has_failed for each in listed):
        path.write_text(failures(listed), encoding="utf-8", newline="\n")
    else:
        path.unlink(missing_ok=True)
    return path


def keep_contact_sheet(outcomes: Iterable[Outcome], directory: Path, source: str) -> Path:
    """Write the page of all outputs. Returns its path: `contact-sheet_2.html`, and so on, where `contact-sheet.html` is
    a file of the user."""
    path = _own(directory, CONTACT_SHEET, _PAGE_MARK, source)
    page = contact_sheet(outcomes, title=directory.resolve().name)
    path.write_text(page, encoding="utf-8", newline="\n")
    return path


def _own(directory: Path, name: str, first_line: str, source: str) -> Path:
    """The first path of this name, with `_2` and so on, that is free or has a file of ours, which begins with this line
    and is not the input (`source`)."""
    names = (name if number == 1 else with_suffix(name, f"_{number}") for number in count(1))
    return next(
        each for each in (directory / each for each in names) if _may_replace(each, first_line, source)
    )


def _may_replace(path: Path, first_line: str, source: str) -> bool:
    try:
        with path.open("rb") as file:
            is_ours = file.readline(200).rstrip(b"\r\n") == first_line.encode()
    except OSError:
        return not path.exists() and not path.is_symlink()
    with suppress(OSError):
        return is_ours and not path.samefile(source)
    return is_ours


def contact_sheet(outcomes: Iterable[Outcome], *, title: str) -> str:
    """A page with all outputs, each with its prompt, seed and cost. It belongs into the directory of the outputs."""
    listed = list(outcomes)
    made = sum(each.is_done for each in listed)
    usd = sum(each.line.cost_usd for each in listed if each.line)
    return _PAGE.format(
        mark=_PAGE_MARK,
        title=escape(title),
        facts=f"{made} of {len(listed)} made, {usd:.2f} USD",
        figures="\n".join(_figure(each) for each in listed),
    )


def _figure(outcome: Outcome) -> str:
    row, line = outcome.row, outcome.line
    shown = "".join(_shown(name) for name in (line.files if line else ()))
    facts = [f"{row.index}", str(row.request["model_name"])]
    seed = row.request.get("seed") if line is None or line.seed is None else line.seed
    if seed is not None:
        facts.append(f"seed {seed}")
    if line is not None and line.cost_usd:
        facts.append(f"{line.cost_usd:g} USD")
    trouble = f'<p class="failed">{escape(outcome.trouble)}</p>' if outcome.trouble else ""
    prompt = escape(str(row.request.get("prompt", "")))
    caption = f"<p>{prompt}</p>{trouble}<small>{escape(' · '.join(facts))}</small>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _shown(name: str) -> str:
    link, ending = quote(Path(name).as_posix()), Path(name).suffix.lstrip(".").lower()
    tag = next((tag for tag, endings in _KINDS.items() if ending in endings), "a")
    if tag == "img":
        return f'<a href="{link}"><img src="{link}" alt="" loading="lazy"></a>'
    if tag == "a":
        return f'<p><a href="{link}">{escape(name)}</a></p>'
    return f'<{tag} src="{link}" controls preload="metadata"></{tag}>'


def _plain(text: str) -> str:
    """The text, which no spreadsheet reads as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
