"""Make the virtual environment of an image, with uv: `install.py FOLDER LOCK [WORD...]`.

Further words are given to an installation of their own before that of the lock. Runs in the first stage of a build,
with the context as its working folder: `pip.conf`, `certificates.pem` and wheels that lie there are used. Standard
library alone, and two files of the project that need no more; fetches uv as requirements/run.txt has it.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from virtual_environment import create, fetch_uv

TOOL = Path("/opt/uv")
"""Not part of the image: it gets FOLDER alone."""


def main(folder: Path, lock: Path, words: list[str]) -> None:
    """Install, every file of the lock checked against its hash, and compile what was installed."""
    context = Path.cwd()
    os.environ |= {"PIP_CONFIG_FILE": str(context / "pip.conf"), "PIP_FIND_LINKS": str(context)}
    if (context / "certificates.pem").is_file():
        os.environ["PIP_CERT"] = str(context / "certificates.pem")
    for environment in (TOOL, folder):
        create(environment)
    fetch_uv(TOOL, [context / "run.txt"])
    variables = runpy.run_path("pip_settings.py")["uv_variables"](os.environ)
    uv = [f"{TOOL}/bin/uv", "--no-cache", "pip", "install", "--python", f"{folder}/bin/python"]
    uv += ["--compile-bytecode", "--no-deps", "--only-binary", ":all:"]
    for arguments in ([*words], ["--require-hashes", "-r", str(lock)]):
        if arguments:
            subprocess.run([*uv, *arguments], env={**os.environ, **variables}, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
