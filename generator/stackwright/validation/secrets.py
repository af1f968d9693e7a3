"""Rules over secrets: none that an attacker tries first, none that can be guessed. Pure; a secret is never quoted."""

from __future__ import annotations

from collections import Counter
from math import log2

from stackwright.validation.environment import PLACEHOLDER

# 32 random hexadecimal digits are 128 bits, beyond the 112 of NIST SP 800-57 part 1 revision 5, table 4.
SHORTEST = 32
# Of 200,000 such texts the estimate below gave none fewer than 90 bits: what has fewer repeats itself.
LEAST_BITS = 90
# From the examples of LiteLLM (docs, quick start), vLLM, Redis and PostgreSQL, and the lists of common passwords.
KNOWN = frozenset(
    "sk-1234 sk-12345 sk-123456 sk-12345678 sk-1234567890 sk-litellm sk-master sk-test sk-change-me token-abc123 "
    "changeme password password123 passw0rd secret admin root redis postgres foobared litellm dbpassword9090 "
    "anything-like-sk-1234 12345678 qwertyuiop letmein none null true".split()
)


def weakness(secret: str) -> str | None:
    """Say what is weak about a secret, without a word of it; None where nothing is."""
    text = secret.strip()
    if not text:
        return "is empty"
    if text.lower() in KNOWN or text.lower().removeprefix("sk-") in KNOWN:
        return "is a default that everybody knows"
    if PLACEHOLDER.fullmatch(text) or PLACEHOLDER.fullmatch(text.removeprefix("sk-")):
        return "is a placeholder"
    if len(text) < SHORTEST:
        return f"has {len(text)} characters of the {SHORTEST} that are needed"
    if bits(text) < LEAST_BITS:
        return f"repeats itself: about {bits(text):.0f} bits of the {LEAST_BITS} that are needed"
    return None


def bits(text: str) -> float:
    """Estimate how many bits a text could hold by how often each of its characters comes (Shannon's entropy)."""
    return sum(count * log2(len(text) / count) for count in Counter(text).values())
