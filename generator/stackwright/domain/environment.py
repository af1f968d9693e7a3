"""The three environments, their names, and where the files of one stand. Names paths; touches none."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from msgspec import Struct


class Environment(StrEnum):
    """Where a stack serves; the value is its short name in files, folders and projects."""

    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


WRITTEN_OUT = {"development": Environment.DEV, "production": Environment.PROD}


COMMON = "envs/common.yaml"
"""What all environments wish for."""
KEYS_FOLDER, USAGE_FOLDER = ".secrets/{environment}/keys", ".usage/{environment}"
"""Below envs/: the folder of the keys of people and programs, and that of what was used with them."""


class EnvironmentPaths(Struct, frozen=True, kw_only=True):
    """Where the files of one environment stand: below the project folder `root`, and below the folder `state`."""

    root: Path
    state: Path
    environment: Environment

    @property
    def wishes(self) -> Path:
        """The file that a person writes."""
        return self.root / "envs" / f"{self.environment.value}.yaml"

    @property
    def common(self) -> Path:
        """The file that a person writes for all environments."""
        return self.root / COMMON

    @property
    def rendered(self) -> Path:
        """The rendered environment file."""
        return self.root / "envs" / f".env.{self.environment.value}"

    @property
    def local(self) -> Path:
        """The person's own file, which beats the rendered one."""
        return self.root / "envs" / f".env.{self.environment.value}.local"

    @property
    def secrets(self) -> Path:
        """The folder of the secret files."""
        return self.root / "envs" / ".secrets" / self.environment.value

    def folder(self, source: str) -> Path:
        """Return a folder of the environment, such as KEYS_FOLDER."""
        return self.root / "envs" / source.format(environment=self.environment.value)

    @property
    def generated(self) -> Path:
        """The folder of the rendered override, gateway file and plan."""
        return self.root / "compose" / "generated" / self.environment.value

    @property
    def plan(self) -> Path:
        """The plan that the files were rendered from."""
        return self.generated / "plan.json"


class Folders(Struct, frozen=True, kw_only=True):
    """Folders on the host, absolute: downloaded models, by its name what each engine compiles, what additions keep."""

    hf_home: str
    engine_caches: Mapping[str, str]
    data: str
