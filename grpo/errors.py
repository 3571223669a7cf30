"""The errors a run can end with, and the exit status of each.

Standard library only. The message of every error here is one line: what was found, and what is valid or where to look.
"""

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # sysexits' EX_TEMPFAIL, "try again": the run was asked to end and is saved
EXIT_HUNG = 124  # ended by the watchdog; the same status as timeout(1)
MAX_ERROR_CHARS = 2400


class UserError(ValueError):
    """Wrong input of the user. The message names the place, what was found, and what is valid.

    Every command prints the message as `error: ...` without a traceback and exits with 2. Unprintable characters are
    escaped, and the middle of a message over `MAX_ERROR_CHARS` is left out.

    >>> print(UserError("recipe.toml: unknown key a\\nb"))
    recipe.toml: unknown key a\\nb
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
        if len(line) > MAX_ERROR_CHARS:
            line = f"{line[: MAX_ERROR_CHARS // 2]} ... {line[-MAX_ERROR_CHARS // 2 :]}"
        super().__init__(line)


class StaleWeights(RuntimeError):
    """The rollout engine sampled from other weights than the trainer's. Training on such samples is silently wrong."""


class FatalError(RuntimeError):
    """An error that ends the run. `all_ranks`: every rank raises it at the same place, so they can save together."""

    def __init__(self, message: str, *, all_ranks: bool = False) -> None:
        super().__init__(message)
        self.all_ranks = all_ranks


class EngineDied(FatalError):
    """A rollout engine died or does not answer."""


class NonFiniteError(FatalError):
    """NaN or infinity in too many updates in a row, or in the distribution that is sampled from."""


class Stopped(RuntimeError):
    """The run was asked to end, and has saved a checkpoint. The message says how to resume."""


def exit_status(error: BaseException) -> tuple[int, str]:
    """Return the exit status of a command that ends with this error, and the line that it prints.

    >>> exit_status(UserError("recipe.toml:3: no such key"))
    (2, 'error: recipe.toml:3: no such key')
    """
    if isinstance(error, UserError):
        return EXIT_USER_ERROR, f"error: {error}"
    if isinstance(error, Stopped):
        return EXIT_STOPPED, f"stopped: {error}"
    if isinstance(error, FatalError | StaleWeights):
        return EXIT_FAILED, f"stopped: {error}"
    return EXIT_FAILED, f"failed: {type(error).__name__}: {error}"
