"""See `serve.py`."""

from __future__ import annotations

from typing import NamedTuple


class SampleRequest(NamedTuple):
    """One request, as far as it is filled in."""

    prompt: str
    prompt_len: int
    expected_output_len: int
    request_id: str
