"""How a service of the stack trusts the gateway over TLS. Standard library alone; mounted beside whoever asks it."""

import ssl
from pathlib import Path


def trust_gateway(certificate: Path) -> ssl.SSLContext:
    """Trust the gateway's own certificate and no other, whatever name it has: inside it is asked by another one."""
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname = False
    own.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    own.load_verify_locations(certificate)
    return own
