"""The gateway's key check: LiteLLM's own answers 400 or 500 to a wrong key when it has no database.

Seen in LiteLLM 1.105.3 (proxy/auth/user_api_key_auth.py, "No connected db."; proxy/db/exception_handler.py imports
prisma, which only images with a database client carry). Clients know 401. Runs inside the gateway, never in a command.
"""

import hmac
import os

from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth  # noqa: TID251  # inside LiteLLM


async def check_key(request: Request, api_key: str | None) -> UserAPIKeyAuth:  # noqa: ARG001  # LiteLLM's signature
    """Let the master key in, compared in constant time; refuse everything else with 401."""
    if not hmac.compare_digest((api_key or "").encode(), os.environ["LITELLM_MASTER_KEY"].encode()):
        raise ProxyException(message="wrong or missing key", type="auth_error", param="key", code=401)
    return UserAPIKeyAuth(api_key=api_key, user_role=LitellmUserRoles.PROXY_ADMIN)
