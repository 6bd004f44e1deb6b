"""How a serving runtime is kept by those who make it: data beside each recipe (`lifecycle.toml`), with its source and date."""

import tomllib
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path


class Status(StrEnum):
    """`frozen`: no more changes upstream, security fixes included. `end-of-life`: withdrawn, or announced to be."""

    SUPPORTED = "supported"
    FROZEN = "frozen"
    END_OF_LIFE = "end-of-life"


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """`source` is where `status` was read, on the day `checked`; `advice` is what to do about it."""

    runtime: str
    status: Status
    since: str
    source: str
    checked: date
    advice: str

    def text(self) -> str:
        """One sentence for a preview."""
        return f"{self.runtime} is {self.status} upstream since {self.since} ({self.source}, read {self.checked}): {self.advice}"


def read_lifecycle(recipe_folder: Path) -> Lifecycle:
    """What `lifecycle.toml` in a recipe's folder says. The file is the project's own: a mistake in it raises as it comes."""
    content = tomllib.loads((recipe_folder / "lifecycle.toml").read_text(encoding="utf-8"))
    return Lifecycle(**{**content, "status": Status(content["status"])})
