"""What LiteLLM asks of us for the requests that go through it: who may come in, and which replica comes next.

LiteLLM's own key check answers 400 or 500 to a wrong key when it has no database (1.105.3,
proxy/auth/user_api_key_auth.py, "No connected db."; proxy/db/exception_handler.py imports prisma, which only images
with a database client carry). Its retries choose a replica by chance, also the one that has just failed. Both are
mended by documented hooks, which gateway.yaml names.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from fastapi import Request
from keys import CALLER, MASTER
from litellm.integrations.custom_logger import CustomLogger  # noqa: TID251  # runs inside LiteLLM
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth  # noqa: TID251
from traces import TRACE

# Set by the key check, which alone sees the request itself; all run in the request's own task.
asked: ContextVar[Request | None] = ContextVar("asked", default=None)

TRIED = "stackwright.tried"
"""Where a request's scope keeps the replicas that it was sent to."""


async def check_key(request: Request, api_key: str | None) -> UserAPIKeyAuth:
    """Let in what the layer before LiteLLM has admitted; refuse everything else with 401."""
    caller = request.scope.get(CALLER)
    if caller is None:
        raise ProxyException(message="wrong or missing key", type="auth_error", param="key", code=401)
    asked.set(request)
    alias = None if caller.name == MASTER else caller.name
    return UserAPIKeyAuth(api_key=api_key, key_alias=alias, user_role=LitellmUserRoles.PROXY_ADMIN)


class Hooks(CustomLogger):
    """LiteLLM's hooks around the choice of a replica."""

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> None:  # noqa: ARG002  # LiteLLM's signature
        """Note which replica a request is sent to, and hand an engine of ours the trace.

        LiteLLM's own `forward_traceparent_to_llm_provider` needs its own exporter, and would tell a cloud (1.108.0,
        proxy/litellm_pre_call_utils.py).
        """
        request, info = asked.get(), kwargs.get("model_info")
        if request is None or not isinstance(info, Mapping):
            return
        request.scope.setdefault(TRIED, set()).add(info.get("id"))
        if "direct" in info and (trace := request.scope.get(TRACE)):
            kwargs["extra_headers"] = {**(kwargs.get("extra_headers") or {}), **trace}

    async def async_filter_deployments(
        self,
        model: str,  # noqa: ARG002  # LiteLLM's signature
        healthy_deployments: list,
        messages: object,  # noqa: ARG002
        request_kwargs: object = None,  # noqa: ARG002
        parent_otel_span: object = None,  # noqa: ARG002
    ) -> list:
        """Leave out the replicas that have failed this request, while there are others."""
        request = asked.get()
        tried = request.scope.get(TRIED, ()) if request is not None else ()
        return [one for one in healthy_deployments if one["model_info"]["id"] not in tried] or healthy_deployments


hooks = Hooks()
