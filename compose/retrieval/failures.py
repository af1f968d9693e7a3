"""What goes wrong with a request, and with a document. No I/O.

RefusedError            a request that gets no answer; becomes an error in OpenAI's form
DocumentError           a document that can never be read; it ends as `failed`
GatewayError            the gateway, or an engine behind it, did not answer as it should
"""

from __future__ import annotations


class RefusedError(Exception):
    """A request that gets no answer: the HTTP status, the kind as OpenAI names it, and one sentence for the client."""

    def __init__(self, status: int, sentence: str, kind: str = "invalid_request_error", retry_after_s: int = 0) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.kind, self.retry_after_s = status, sentence, kind, retry_after_s


def bad_request(sentence: str) -> RefusedError:
    """Return the refusal of a request that is wrong in itself."""
    return RefusedError(400, sentence)


def not_found(what: str) -> RefusedError:
    """Return the one refusal for what does not exist and for what belongs to another key."""
    return RefusedError(404, f"no such {what}")


class DocumentError(Exception):
    """A document that cannot be read, now or later; the text is for the person who sent it."""


class GatewayError(Exception):
    """The gateway did not give what was asked: its status (0: no answer at all), and what it said.

    `pause_s`: where a limit of requests says when it ends.
    """

    def __init__(self, status: int, sentence: str, pause_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.pause_s = status, sentence, pause_s
