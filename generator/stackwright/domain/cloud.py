"""A model of a cloud, which stands in for one of ours where the environment asks for it."""

from __future__ import annotations

from msgspec import Struct


class CloudModel(Struct, frozen=True, kw_only=True):
    """Its `name` for clients; LiteLLM's `provider/model`; the name of its key.

    `address` is the base URL of a service that speaks the provider's protocol; None for the provider's own.
    """

    name: str
    model: str
    key: str
    address: str | None = None

    @property
    def provider(self) -> str:
        """The provider, by LiteLLM's word for it."""
        return self.model.partition("/")[0]

    @property
    def secret(self) -> str:
        """The secret's file, and the variable of the gateway's process that compose/gateway/start.sh reads it into."""
        return f"cloud_{self.key}_key"
