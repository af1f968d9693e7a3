"""The child process that reads documents: takes a path on a line, answers with its passages on a line.

It has limits on memory, processor time and files of its own, so that a bad file costs that document alone. The parent
is parser.py. Runs as `python -m retrieval.parsing`.
"""

from __future__ import annotations

import codecs
import json
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.kinds import DOCX, HTML, MARKDOWN, PDF
from retrieval.pieces import Piece

MEMORY_BYTES = 1 << 30
"""Address space of the child: PDFium and lxml stay below 400 MB with the largest files that are taken."""

PROCESSOR_S = 60
"""Processor time of one document."""

MOST_CHARACTERS = 10_000_000
"""Text of one document: twenty books. What a short file unfolds to is bounded by it too."""

MOST_UNPACKED_BYTES = 256 << 20
"""What the parts of a DOCX may unpack to, by their own word; the limit on memory holds whatever they say."""

OVERLAP_SHARE = 8
"""Neighbouring passages share this part of their length, so that a sentence on the border is whole in one of them."""

_HEADING = re.compile(r"^heading ([1-6])$", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\x0b\f\r]+")


class UnreadableError(Exception):
    """A document that has no text to take; the message is for the person who sent it."""


def cut(text: str, capacity: int, *, is_markdown: bool = False) -> list[str]:
    """Return passages of at most `capacity` characters; they end where sentences, paragraphs or headings do, as far
    as that goes.
    """
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    splitter = (MarkdownSplitter if is_markdown else TextSplitter)(capacity, overlap=capacity // OVERLAP_SHARE)
    return [passage for passage in splitter.chunks(text) if passage.strip()]


def read_pieces(path: Path, media_type: str, capacity: int) -> tuple[list[Piece], list[int]]:
    """Return the passages of a document, and which of its pages are scanned: they show something, and have no text.

    Raises:
        UnreadableError: it is damaged, locked, too long, or has neither.
    """
    scanned: list[int] = []
    if media_type == PDF:
        pieces = []
        for number, (page, is_scanned) in enumerate(_pdf_pages(path), start=1):
            # Each page for itself: where an answer stands is then exact.
            pieces += [Piece(text=passage, page=number) for passage in cut(_clean(page), capacity)]
            scanned += [number] * is_scanned
    else:
        readers: dict[str, Any] = {HTML: _html, DOCX: _docx}
        text = _clean(readers.get(media_type, _text)(path))
        pieces = [Piece(text=passage) for passage in cut(text, capacity, is_markdown=media_type in (MARKDOWN, DOCX))]
    if not pieces and not scanned:
        raise UnreadableError("there is no text in it")
    return pieces, scanned


def _pdf_pages(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each page's text, and whether the page is scanned."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as failure:
        raise UnreadableError(f"this PDF cannot be opened: {failure}") from failure
    room = MOST_CHARACTERS
    for page in document:
        text = page.get_textpage().get_text_bounded().replace("\r\n", "\n")
        is_scanned = not text.strip() and any(True for _ in page.get_objects(max_depth=1))
        page.close()
        room -= len(text)
        if room < 0:
            raise UnreadableError(f"it has more than {MOST_CHARACTERS} characters")
        yield text, is_scanned


def _html(path: Path) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    content = path.read_bytes()
    tree = HTMLTree.parse_from_bytes(content, detect_encoding(content))
    title = tree.title or ""
    body = extract_plain_text(tree, preserve_formatting=True, alt_texts=True, skip_elements=["nav", "template"])
    return f"{title}\n\n{body}" if title.strip() else str(body)


def _docx(path: Path) -> str:
    from docx import Document
    from docx.table import Table

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_UNPACKED_BYTES:
            raise UnreadableError(f"its parts unpack to {unpacked} bytes; {MOST_UNPACKED_BYTES} are allowed")
        document = Document(str(path))
    except UnreadableError:
        raise
    except Exception as failure:  # python-docx raises whatever the broken part of the file leads it to
        raise UnreadableError(f"this DOCX cannot be opened: {type(failure).__name__}") from failure
    lines = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            lines += [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
        else:
            heading = _HEADING.match(block.style.name if block.style is not None and block.style.name else "")
            lines.append(f"{'#' * int(heading[1])} {block.text}" if heading else block.text)
    return "\n\n".join(lines)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Every byte is some character there: what is no UTF-8 is most often this (WHATWG Encoding Standard, labels).
        return content.decode("cp1252", "replace")


def _clean(text: str) -> str:
    """Return text that PostgreSQL can store, rows of blanks as one. Raises UnreadableError where it is too long."""
    if len(text) > MOST_CHARACTERS:
        raise UnreadableError(f"it has more than {MOST_CHARACTERS} characters")
    text = text.replace("\r\n", "\n").replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
    return _BLANKS.sub(" ", text)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _allow_time() -> None:
    """Let one more document take its time: SIGXCPU ends this process behind it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + PROCESSOR_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        pieces, scanned = read_pieces(Path(question["path"]), question["media_type"], question["capacity"])
        return {"pieces": [asdict(piece) for piece in pieces], "scanned": scanned}
    except UnreadableError as failure:
        return {"unreadable": str(failure)}
    except MemoryError:
        return {"unreadable": f"reading it takes more than {MEMORY_BYTES >> 20} MiB of memory"}
    except FileNotFoundError:
        return {"unreadable": "its original is gone"}
    except Exception as failure:  # noqa: BLE001  # a library at a broken file: this document's fault, whatever it raises
        return {"unreadable": f"it cannot be read: {type(failure).__name__}: {str(failure)[:200]}"}


def main() -> None:
    """Read documents until the parent closes its end."""
    _limit()
    for line in sys.stdin:
        _allow_time()
        answer = _answer(json.loads(line))
        sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
