"""What has a model been through? A file beside its weights, and beside the runs that make it, lists the stages."""

import json
from pathlib import Path

from grpo.checkpointing.store import flush
from grpo.errors import UserError
from launch.config.recipe import Setup

FILE = "stages.json"
_ABOVE = 3  # a run's models are runs/NAME/model, runs/NAME/best-step-N and runs/NAME/checkpoints/step-N/...


def stages_of(folder: str | Path) -> tuple[str, ...]:
    """The stages, first to last, that the model in `folder` was trained in; () for one that we know nothing of.

    Read from `stages.json` in the folder, so that a copy keeps it, or of the run folder that it is in.
    """
    place = Path(folder)
    if not place.is_dir():  # a hub name
        return ()
    for above in (place, *place.absolute().parents[:_ABOVE]):
        path = above / FILE
        if not path.is_file():
            continue
        try:
            stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
            if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
                raise ValueError("not a list of names")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: damaged ({type(error).__name__}); expected {{'stages': ['stage1']}}") from None
        return tuple(stages)
    return ()


def write_stages(folder: Path, stages: tuple[str, ...]) -> None:
    """There whole or not at all: beside a run's model it says that the run is finished."""
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps({"stages": list(stages)}) + "\n", encoding="utf-8")
    flush(new)
    new.rename(folder / FILE)
    flush(folder)


def check_after(recipe: Setup, start: str | None) -> tuple[str, ...]:
    """The stages of the starting model, `start`, or None for `model.init_from = "base"`.

    UserError where `model.after` names a stage that it was not trained in.
    """
    stages = stages_of(start) if start else ()
    wanted = recipe.model.after
    if wanted and wanted not in stages:
        been = f"it was trained in {', '.join(stages)}" if stages else "nothing says that it was trained in any stage"
        raise UserError(
            f"model.after = {wanted!r}: {start or 'the base model'} was not trained in {wanted} ({been}); run "
            f"`make train-{wanted}` first, or say that it need not be: --model.after= (make: ARGS=--model.after=)"
        )
    return stages
