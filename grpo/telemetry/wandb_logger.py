"""The metrics of a run at Weights & Biases. The run never depends on wandb: its own files have everything."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class WandbLogger:
    """A wandb run where WANDB_API_KEY or WANDB_MODE is set, else nothing. After an error wandb is off, with a line."""

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
        """`run_id` is the id of a resumed run, "" for a new one."""
        self.run_id, self._tell = run_id, tell  # the id is kept for the next start where wandb is off now
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

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda run: run.log(dict(values), step=step))

    def log_result(self, name: str, value: Mapping[str, Any]) -> None:
        """Put a result of no step into the summary."""
        self._call(lambda run: run.summary.update({name: dict(value)}))

    def finish(self, *, failed: bool = False) -> None:
        """Send the rest and close the run."""
        self._call(lambda run: run.finish(exit_code=int(failed)))
        self._run = None

    def _call(self, call: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # the errors of its service, which may have died too, have no common class
            self._tell(f"wandb is off from here on: {str(error) or type(error).__name__}")
            self._run = None
