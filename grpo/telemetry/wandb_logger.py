"""What of a run goes to wandb? The metrics that its own files have, and never anything that the run depends on."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class WandbLogger:
    """A wandb run where WANDB_API_KEY or WANDB_MODE says so, else nothing. Out of reach it is left out, with a line."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        project: str,
        settings: Mapping[str, Any],
        run_id: str,
        tell: Callable[[str], None],
    ) -> None:
        """A run that goes on has the `run_id` that it had; "" for a new one."""
        self.run_id, self._tell = run_id, tell  # kept for the next start where wandb is off for this one
        self._run: Any = None
        if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE")):
            return
        import wandb
        from wandb.errors import Error

        try:
            again: dict[str, Any] = {"id": run_id, "resume": "allow"} if run_id else {}
            self._run = wandb.init(project=project, name=name, dir=str(folder), config=dict(settings), **again)
        except (Error, OSError, ValueError) as error:  # ValueError: an unknown WANDB_MODE
            tell(f"wandb is off for this run: {error}")
        else:
            self.run_id = self._run.id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._do(lambda run: run.log(dict(values), step=step))

    def result(self, name: str, value: Mapping[str, Any]) -> None:
        """A result that belongs to no step."""
        self._do(lambda run: run.summary.update({name: dict(value)}))

    def finish(self, *, failed: bool = False) -> None:
        """The last thing that is sent; nothing is after it."""
        self._do(lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _do(self, call: Callable[[Any], object]) -> None:
        """One that fails is left out from then on: the run's own files have everything."""
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # of its service that died too, whose errors have no common class
            self._tell(f"wandb is off from here on: {str(error) or type(error).__name__}")
            self._run = None
