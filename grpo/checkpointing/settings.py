"""What a recipe can say about keeping a run: its section [checkpoint]."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Checkpoints, from which a run that has ended too early goes on (docs/reliability.md)."""

    every: Annotated[int, Field(ge=0)] = 5  # steps between them; 0: only when the run is asked to end
    keep: Annotated[int, Field(ge=1)] = 2  # the newest that stay: a second one, should the disk damage the first
    background: bool = True  # written beside the next steps, from a copy in main memory: 12 bytes per parameter
    resume: Literal["auto", "never"] = "auto"  # auto: a run folder with a checkpoint is gone on with
    # seconds beyond its report after which a phase ends the run; 0: never
    hang_timeout: Annotated[float, Field(ge=0)] = 3600.0
    # updates in a row with numbers that are not finite, after which the run ends
    max_nonfinite_updates: Annotated[int, Field(ge=1)] = 3
