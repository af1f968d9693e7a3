"""One way to quote a scalar for each file format. Pure."""

from __future__ import annotations

import json
import re

_BARE_ENV = re.compile(r"[A-Za-z0-9_./:,@%+-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def quote_yaml(text: str) -> str:
    """Quote as a YAML double-quoted scalar; JSON strings are a subset of these."""
    return json.dumps(text, ensure_ascii=True)


def quote_env(text: str) -> str:
    """Quote a value of an env file: bare where that is safe, else in single quotes, which Compose reads literally."""
    return text if _BARE_ENV.fullmatch(text) else f"'{text}'"


def quote_comment(text: str) -> str:
    """Keep a comment on its line, whatever a host snapshot holds."""
    return _CONTROL.sub(" ", text)


def literal_for_compose(text: str) -> str:
    """Protect a word from Compose's interpolation."""
    return text.replace("$", "$$")
