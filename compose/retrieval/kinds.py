"""What a file is, told by its first bytes, its name and what its sender says. Standard library only."""

from __future__ import annotations

from pathlib import PurePath

PDF, HTML, MARKDOWN, TEXT = "application/pdf", "text/html", "text/markdown", "text/plain"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
MEDIA = ("image/", "audio/", "video/")
"""What the multimodal worker reads."""

SNIFFED_BYTES = 4096
"""How much of a file is looked at."""

_BY_ENDING = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), HTML),
    **dict.fromkeys((".md", ".markdown", ".mdown"), MARKDOWN),
}
# Signatures of the formats' own specifications: at which byte, what stands there, and what it is.
_SIGNATURES = (
    (0, b"%PDF-", PDF),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
)


def media_type_of(first: bytes, name: str, declared: str) -> str | None:
    """Return a file's media type; None where no reader is for it.

    Args:
        first: its first bytes, SNIFFED_BYTES or the whole of it.
    """
    for place, signature, kind in _SIGNATURES:
        if first.startswith(signature, place):
            return kind
    if first.startswith(b"PK\x03\x04"):
        return DOCX if _is_docx(name, declared) else None
    if not _is_text(first):
        return None
    kind = declared.partition(";")[0].strip().lower()
    if kind in (HTML, "application/xhtml+xml"):
        return HTML
    if kind in (MARKDOWN, "text/x-markdown"):
        return MARKDOWN
    if by_ending := _BY_ENDING.get(PurePath(name).suffix.lower()):
        return by_ending
    begin = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return HTML if begin.startswith((b"<!doctype html", b"<html")) else TEXT


def is_media(media_type: str) -> bool:
    """Return whether the multimodal worker reads it."""
    return media_type.startswith(MEDIA)


def _is_docx(name: str, declared: str) -> bool:
    return PurePath(name).suffix.lower() == ".docx" or declared.partition(";")[0].strip().lower() == DOCX


def _is_text(first: bytes) -> bool:
    """Return whether bytes can be text: UTF-16 says so at its begin, all others have no zero and few control signs."""
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in first)
    return b"\0" not in first and controls * 100 <= len(first)
