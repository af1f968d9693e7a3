"""`stackwright` with the toys beside vLLM and Redis, as somebody else's package would bring them: one row each."""

from __future__ import annotations

import sys

from stackwright.cli import main
from stackwright.engines import ENGINES
from stackwright.services import SERVICES

from tests.toy_engine.engine import TOY
from tests.toy_service import ADDED

if __name__ == "__main__":
    ENGINES[TOY.name] = TOY
    SERVICES.append(ADDED)
    sys.exit(main(sys.argv[1:]))
