"""Print whether a recipe fits a machine, and which settings would: python -m launch.plan RECIPES [--gpus N ...]

    python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml --gpus 8 --gpu-memory 80 [--nodes 2]
    python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml      the machine at hand

Overrides are those of training: --policy.zero_stage=3. Formulas: launch/planner/memory.py.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from grpo.errors import UserError
from launch.config.recipe import load_recipe
from launch.planner.devices import devices_at_hand
from launch.planner.memory import GB, Devices
from launch.planner.report import announce, make_plan


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def devices_asked(options: argparse.Namespace) -> Devices:
    """The devices that the flags say, or those of this machine without flags."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    if not given:
        return devices_at_hand()
    if "gpus" not in given or "gpu_memory" not in given:
        raise UserError("another machine is --gpus N and --gpu-memory GB together")
    host = options.host_memory * GB if options.host_memory else None
    memory = options.gpu_memory * GB
    return Devices(kind="gpu", per_node=options.gpus, nodes=options.nodes or 1, memory=memory, host=host)


def main(argv: Sequence[str]) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m launch.plan", description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--gpus", type=int, metavar="N", help="of a node")
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="of each GPU")
    parser.add_argument("--nodes", type=int, metavar="N", help="1 by default")
    parser.add_argument("--host-memory", type=float, metavar="GB", help="main memory of a node, compared if given")
    try:
        options, rest = parser.parse_known_args(argv)
        if all(argument.startswith("--") for argument in rest):
            raise UserError("no recipe: python -m launch.plan configs/stage1.toml configs/models/qwen3-8b.toml ...")
        r = load_recipe(rest)
        plan = make_plan(r.model, r.sampling, r.loss, r.policy, r.rollout, devices_asked(options))
        announce(plan, "refuse")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
