"""A hook of MkDocs: files of this project that a page of docs/ links to outside docs/ come along into the site.

A link such as `../../benchmarks/results/soak.svg` works in a clone. In the site the file lies below the site's root,
and the link leads there. A link that leads to no file is left as it is, so that the strict build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LEAVING_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")


def outside(page: str, link: str) -> str | None:
    """Return the path in the project of the file that `link` on `page` (a path below docs/) means, if outside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    leaves = not path.startswith(("../", "docs/"))
    return path if leaves and (ROOT / path).is_file() else None


def on_files(files: Files, config: Any) -> Files:
    """Add the linked files."""
    for page in list(files.documentation_pages()):
        for link in LEAVING_LINK.findall(page.content_string):
            path = outside(page.src_uri, link)
            if path and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links to them."""

    def turned(match: re.Match[str]) -> str:
        path = outside(page.file.src_uri, match[1])
        return f"]({posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or '.')}" if path else match[0]

    return LEAVING_LINK.sub(turned, markdown)
