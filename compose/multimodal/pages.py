"""PDF files, by PDFium: the text of their pages, and pictures of them. Runs in the reading process alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pypdfium2

from multimodal.decoded import Decoded, RefusedFileError
from multimodal.pictures import PREVIEW, flatten, keep_thumbnail, save

MOST_PAGES = 2000
"""Pages whose text is read; a longer file is cut there, and `media.pages` tells how many it has."""

MOST_PAGE_CHARACTERS = 100_000
READABLE = 1536
"""The longest side of a page that is read by a model: on A4 a letter of 10 points is then 18 pixels high."""

MOST_SCALE = 4.0
"""Pixels for each point of a page, 72 to the inch: more shows a small page no better."""

SIGNATURE, WITHIN = b"%PDF-", 1024
"""A PDF file's beginning; readers look for it in the first kilobyte (ISO 32000-1, annex H, 3.4.1)."""


def read_pages(path: Path, folder: Path, want: Mapping[str, Any], tell: Callable[[float], None]) -> Decoded | None:
    """Return what a PDF file holds; None where the file is none. Raises RefusedFileError."""
    with path.open("rb") as file:
        if SIGNATURE not in file.read(WITHIN):
            return None
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as failure:
        told = "it is locked with a password" if "assword" in str(failure) else "it is damaged or truncated"
        raise RefusedFileError(f"the PDF file cannot be opened: {told}") from failure
    with document:
        number = len(document)
        decoded = Decoded(media={"kind": "pdf", "format": "PDF", "pages": number})
        if title := document.get_metadata_dict().get("Title"):
            decoded.media["title"] = str(title)[:500]
        for index in range(min(number, MOST_PAGES)):
            tell(index / number)
            _read_page(document, index, folder, decoded, want)
        if all(page.get("damaged") for page in decoded.pages):
            raise RefusedFileError("no page of the PDF file can be read: it is damaged or truncated")
        return decoded


def _read_page(document: Any, index: int, folder: Path, decoded: Decoded, want: Mapping[str, Any]) -> None:
    """Read a page's text, and draw the first pages. A page that cannot be read is told of, and the others are."""
    told: dict[str, Any] = {"page": index + 1, "text": ""}
    decoded.pages.append(told)
    try:
        page = document[index]
    except pypdfium2.PdfiumError:
        told["damaged"] = True
        return
    try:
        text = page.get_textpage().get_text_bounded()[:MOST_PAGE_CHARACTERS].replace("\r\n", "\n").replace("\0", "")
        told["text"] = text.strip()
        is_scanned = not told["text"] and any(True for _ in page.get_objects(max_depth=1))
        if is_scanned:
            told["scanned"] = True
        if index < int(want["pages"]) or (is_scanned and _scanned(decoded) < int(want.get("scanned_pages", 0))):
            _draw(page, index, folder, decoded, is_first=index == 0 and bool(want.get("thumbnails")))
    except pypdfium2.PdfiumError:
        told["damaged"] = True
    finally:
        page.close()


def _scanned(decoded: Decoded) -> int:
    """Return how many pages without a text are drawn."""
    scanned = {page["page"] for page in decoded.pages if page.get("scanned")}
    return sum(view["page"] in scanned for view in decoded.views)


def _draw(page: Any, index: int, folder: Path, decoded: Decoded, *, is_first: bool) -> None:
    """Write a picture of a page, and its thumbnail where it is the first."""
    longest = READABLE if decoded.pages[-1].get("scanned") else PREVIEW
    scale = min(longest / max(*page.get_size(), 1.0), MOST_SCALE)
    image = flatten(page.render(scale=scale).to_pil(), longest)
    name = f"page-{index + 1:04}.jpg"
    save(image, folder / name, decoded)
    decoded.views.append({"file": name, "page": index + 1})
    if is_first:
        keep_thumbnail(image, folder, decoded)
