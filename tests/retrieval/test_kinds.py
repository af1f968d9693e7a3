"""What a file is, told by its first bytes, its name and its sender."""

from __future__ import annotations

import pytest
from retrieval.kinds import DOCX, HTML, MARKDOWN, PDF, TEXT, is_media, media_type_of


@pytest.mark.parametrize(
    ("first", "name", "declared", "kind"),
    [
        (b"%PDF-1.7\n\0\0", "a.txt", "text/plain", PDF),
        (b"PK\x03\x04....", "a.docx", "", DOCX),
        (b"PK\x03\x04....", "a", DOCX, DOCX),
        (b"PK\x03\x04....", "a.zip", "application/zip", None),
        (b"<!DOCTYPE html><p>", "a", "", HTML),
        (b"\xef\xbb\xbf\n<HTML>", "a", "", HTML),
        (b"# Title", "a.MD", "", MARKDOWN),
        (b"# Title", "a", "text/markdown; charset=utf-8", MARKDOWN),
        (b"<p>", "a", "text/html", HTML),
        ("schön".encode("cp1252"), "a.txt", "", TEXT),
        ("schön".encode("utf-16"), "a.txt", "", TEXT),
        (b"\x7fELF\x02\x01\x01\0\0", "a.txt", "text/plain", None),
        (b"\x01\x02\x03abc", "a.txt", "text/plain", None),
        (b"\x89PNG\r\n\x1a\n\0", "a.txt", "text/plain", "image/png"),
        (b"RIFF....WAVEfmt ", "a", "", "audio/wav"),
        (b"\0\0\0\x20ftypisom", "a.mp4", "", "video/mp4"),
    ],
)
def test_the_bytes_tell_before_the_name(first: bytes, name: str, declared: str, kind: str | None) -> None:
    assert media_type_of(first, name, declared) == kind


def test_the_multimodal_worker_reads_pictures_sound_and_video() -> None:
    assert [is_media(kind) for kind in ("image/png", "audio/wav", "video/mp4", TEXT, PDF)] == [True] * 3 + [False] * 2
