"""vLLM in a process of its own, for runs with `rollout.engine = "server"`: `python launch/serve.py RECIPES`.

It takes the recipes of the run that it is for, and listens at `rollout.host`, by default loopback, until it is stopped.
Requests must know the GROUND_GRPO_TOKEN of its environment. With GPUs, set CUDA_VISIBLE_DEVICES for both processes.
"""

import signal
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as in launch/train.py, which says why

from grpo.config import describe
from grpo.distributed.communicator import Communicator
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.config.recipe import Recipe, load_recipe


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        print(describe(Recipe))
        return 0
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an exit, so that vLLM ends its own processes
    try:
        recipe = load_recipe(argv)
        with console.alive():
            console.status("loading torch")
            run_server(recipe, console)
    except UserError as error:
        console.line(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        console.line("stopped")
    return 0


def run_server(recipe: Recipe, console: Console) -> None:
    """Start vLLM on the recipe's model and serve it. Weights come from the run, so any of the same shapes will do."""
    from grpo.rollout.server import Server, Service
    from launch.builders.models import starting_weights
    from launch.builders.policy import choose_dtype
    from launch.builders.prompts import make_prompt_codec
    from launch.builders.rollout import make_rollout, server_address, shapes_of

    wanted, context = recipe.rollout, recipe.model.context
    # The server is first, since a port in use should not cost the start of vLLM.
    with Server(server_address(wanted)) as server:
        model = starting_weights(recipe.model, recipe.run.folder, console)
        codec = make_prompt_codec(recipe.model, model, console, max_tokens=recipe.sampling.max_tokens)
        about = {"dtype": choose_dtype(recipe.policy), "console": console, "comm": Communicator()}
        engine = make_rollout("vllm", wanted, model, codec=codec, context=context, **about)
        console.status("")
        console.line(f"serving      {model} at {wanted.host}:{wanted.port}")
        server.serve(Service(engine, model=model, shapes=shapes_of(model)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
