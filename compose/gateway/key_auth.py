"""The gateway's key check: LiteLLM's own answers 400 or 500 to a wrong key when it has no database.

Seen in LiteLLM 1.105.3 (proxy/auth/user_api_key_auth.py, "No connected db."; proxy/db/exception_handler.py imports
prisma, which only images with a database client carry). Clients know 401. Runs inside the gateway, never in a command.
"""

import hmac
import os

# gateway.yaml names the door through this module: LiteLLM runs a file that lies beside its configuration once for each
# name in it, while an import is shared.
from door import asked, door
from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth  # noqa: TID251  # inside LiteLLM

__all__ = ["check_key", "door", "is_right"]


def is_right(key: str) -> bool:
    """Compare a key with the master key, in constant time."""
    return hmac.compare_digest(key.encode(), os.environ["LITELLM_MASTER_KEY"].encode())


async def check_key(request: Request, api_key: str | None) -> UserAPIKeyAuth:
    """Let the master key in, compared in constant time; refuse everything else with 401."""
    if not is_right(api_key or ""):
        raise ProxyException(message="wrong or missing key", type="auth_error", param="key", code=401)
    asked.set(request)
    return UserAPIKeyAuth(
        api_key=api_key,
        user_role=LitellmUserRoles.PROXY_ADMIN,
        rpm_limit=int(os.environ["GATEWAY_KEY_REQUESTS_PER_MINUTE"]) or None,
        tpm_limit=int(os.environ["GATEWAY_KEY_TOKENS_PER_MINUTE"]) or None,
    )
