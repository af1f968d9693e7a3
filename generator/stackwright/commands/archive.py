"""What `backup` and `restore` share: the way to a stack's retrieval proxy, which makes and takes the archive."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from msgspec import Struct

from stackwright.commands.paths import find_paths
from stackwright.commands.stack import load_stack
from stackwright.domain.environment import Environment
from stackwright.domain.service import Service
from stackwright.errors import RuntimeRefusedError, UsageError
from stackwright.project.credentials import read_gateway_key
from stackwright.runtime import Stack
from stackwright.watching.probe import published_url

SERVICE = "retrieval"
BLOCK_BYTES = 1 << 20

SILENCE_S = 3600.0
"""Longest wait between two parts of an answer: the database is written down, or read in, before anything comes."""


class RetrievalProxy(Struct, frozen=True, kw_only=True):
    """The retrieval proxy of a stack, as its administrator asks it."""

    stack: Stack
    service: Service
    key: str

    @contextlib.contextmanager
    def ask(self, method: str, path: str, body: IO[bytes] | None = None) -> Iterator[http.client.HTTPResponse]:
        """Give the answer to a request.

        Raises:
            RuntimeRefusedError: it does not answer, or breaks off.
        """
        address = urlsplit(published_url(self.stack, self.service))
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=SILENCE_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/x-tar"}
        if body is not None:
            headers["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        try:
            # What has been refused already is told by the answer, not by the end of the sending.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers)
            yield connection.getresponse()
        except (http.client.HTTPException, ConnectionError, TimeoutError) as failure:
            environment = self.stack.plan.environment.value
            start, see = f"`start-environment {environment}`", f"`stackwright doctor {environment}`"
            raise RuntimeRefusedError(
                f"{SERVICE} of {environment} does not answer: {str(failure) or type(failure).__name__}",
                hint=f"start it: {start}, or see what is wrong: {see}",
            ) from None
        finally:
            connection.close()


def find_proxy(environment: Environment, out: Path | None) -> RetrievalProxy:
    """Return the retrieval proxy of an environment. Raises UsageError where its plan has none."""
    stack = load_stack(find_paths(out).of(environment))
    service = next((service for service in stack.services if service.name == SERVICE), None)
    if service is None:
        raise UsageError(
            f"{environment.value} has no retrieval, and so no documents",
            hint=f"`configure-gpu {environment.value} --with retrieval`",
        )
    return RetrievalProxy(stack=stack, service=service, key=read_gateway_key(stack.secrets))


def refusal_of(answer: http.client.HTTPResponse) -> str:
    """Return the sentence of a refusal."""
    text = answer.read(BLOCK_BYTES)
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"it answered {answer.status}"
