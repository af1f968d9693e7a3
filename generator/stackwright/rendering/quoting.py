"""One way to quote a scalar for each file format. Pure."""

from __future__ import annotations

import json
import re

_BARE_ENV = re.compile(r"[A-Za-z0-9_./:,@%+-]*")
# What YAML 1.2 forbids to stand in a file (5.1, c-printable), and what it would take for the end of a line.
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def quote_yaml(text: str) -> str:
    """Quote as a YAML double-quoted scalar; JSON strings are a subset of these.

    But for JSON's escapes beyond U+FFFF: YAML does not join a pair of surrogates, so such letters stay as they are.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def quote_env(text: str) -> str:
    """Quote a value of an env file: bare where that is safe, else in single quotes, which Compose reads literally."""
    return text if _BARE_ENV.fullmatch(text) else f"'{text}'"


def quote_comment(text: str) -> str:
    """Keep a comment on its line, whatever a host snapshot holds."""
    return _CONTROL.sub(" ", text)


def literal_for_compose(text: str) -> str:
    """Protect a word from Compose's interpolation."""
    return text.replace("$", "$$")
