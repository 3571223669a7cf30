"""How do packages come into `.venv`, and what is said meanwhile? Standard library only, as set-up is.

What is locked is installed by uv, in seconds where pip takes minutes. uv reads none of pip's settings: it is told of
the index and the certificates that pip is set to, and where it cannot do it all the same, that is said and pip does it.
Torch comes by pip alone, whose `--find-links` may hold a build that no index has.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.packages import as_uv_reads, blocks, locked, name_of, progress, quiet, reason, version_of

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements.lock"
UV_CACHE = VENV / "uv-cache"  # on the disk of .venv, so that files are linked and not copied; gone in the end
BEAT = 5.0  # seconds between signs of life


def install_uv() -> None:
    """The uv of the lock, by pip; without it everything comes by pip."""
    listing = VENV / "uv-requirements.txt"
    listing.write_text("".join(block for block in blocks(LOCK.read_text()) if name_of(block) == "uv"))
    if not version_of("uv", VENV):
        pip(["--no-deps", "--require-hashes", "-r", str(listing)], "uv, which installs the rest")


def remove_uv_cache() -> None:
    """What is installed stays: the cache held further links to it."""
    shutil.rmtree(UV_CACHE, ignore_errors=True)


def pip_locked(*parts: str) -> tuple[int, list[str]]:
    """Install what the lock has for these parts. It is whole: nothing else is looked for, and no other file taken."""
    listing = VENV / f"{parts[0]}-requirements.txt"
    listing.write_text(locked(LOCK.read_text(), parts))
    label = f"{' and '.join(parts)}: {listing.read_text().count('==')} packages"
    options = ["--no-deps", "--require-hashes", "-r", str(listing)]
    if version_of("uv", VENV):
        own = ["--python", PYTHON, "--cache-dir", str(UV_CACHE)]
        code, lines = run([PYTHON, "-m", "uv", "pip", "install", *own, *options], label, settings_of_pip())
        if code == 0:
            return code, lines
        print(f"   uv cannot install them ({reason(lines)}); pip tries", flush=True)
    return pip(options, label)


def settings_of_pip() -> dict[str, str]:
    """What pip is set to by a file or a variable, as variables of uv; those that uv has already stay as they are."""
    command = [PYTHON, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {name: value for name, value in as_uv_reads(said).items() if name not in os.environ}


def pip(arguments: Sequence[str], label: str) -> tuple[int, list[str]]:
    """Run `pip install` inside `.venv`. Nothing is compiled here: Python does that when it first imports a module. And
    nothing is cached: set-up writes nothing outside the repository."""
    options = ["--no-input", "--progress-bar", "off", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    return run([PYTHON, "-m", "pip", "install", *options, *arguments], label)


def run(command: Sequence[str], label: str, variables: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command under a heartbeat, with further variables. Its output goes to the log; when it fails, the last 20
    lines are shown."""
    print(f"== {label}", flush=True)
    started, lines = time.monotonic(), list[str]()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(variables or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        output = process.stdout or ()
        reader = threading.Thread(target=lambda: [lines.append(line.rstrip()) for line in output], daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(timeout=BEAT)
                if reader.is_alive():
                    beat(f"   {time.monotonic() - started:4.0f} s  {progress(lines)}")
        except BaseException:
            process.terminate()
            raise
        finally:
            LOG.parent.mkdir(exist_ok=True)
            with LOG.open("a") as log:
                log.writelines(f"{line}\n" for line in (f"== {label}", *lines))
    beat("")
    if process.returncode:
        print(f"   failed with exit status {process.returncode}; the end of {LOG.relative_to(ROOT)}:")
        print("\n".join(f"   | {line}" for line in quiet(lines)[-20:]), flush=True)
    else:
        print(f"   done in {time.monotonic() - started:.0f} s", flush=True)
    return process.returncode, lines


def beat(line: str) -> None:
    """On a terminal one line rewritten in place, elsewhere a new line each time; empty when there is no more to say."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
    elif line:
        print(line, flush=True)
