"""Has anything that is locked a known weakness? `make lint` asks pip-audit, where its database is within reach.

Where it is not, one line says so and nothing else happens. Exit status 1 where something was found.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.installing import LOCK, VENV
from launch.packages import blocks, quiet, reason

ACCEPTED: Mapping[str, str] = {}  # the id of an advisory -> why it does not matter here
PATIENCE = 5  # seconds for an answer of the database
LONGEST = 600  # seconds for all packages


def main() -> int:
    """One package is asked about first: a database that does not know it knows none, and 200 need not be tried."""
    packages = blocks(LOCK.read_text(encoding="utf-8"))
    first = next(block for block in packages if ";" not in block.partition("\\")[0])
    known = audit(first)
    if isinstance(known, str):
        print(f"advisories   nothing was checked, pip-audit's database is not within reach: {known}")
        return 0
    found = audit("".join(packages))
    if isinstance(found, str):
        print(f"advisories   pip-audit stopped, not all was checked: {found}")
        return 0
    lines = weaknesses(found)
    print("\n".join(lines) or f"advisories   {len(found)} packages, none with a known weakness")
    return 1 if lines else 0


def audit(requirements: str) -> list[dict[str, Any]] | str:
    """What is known of these packages, one entry each; or in a few words why nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(requirements, encoding="utf-8")
        options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", f"--timeout={PATIENCE}"]
        command = [sys.executable, "-m", "pip_audit", *options, f"--cache-dir={VENV / 'advisories'}", f"-r={file}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        except subprocess.TimeoutExpired:
            return f"no end within {LONGEST} s"
    try:
        entries = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return reason(quiet(done.stderr.splitlines()))
    unknown = [entry for entry in entries if "skip_reason" in entry]
    return unknown[0]["skip_reason"] if len(unknown) == len(entries) else entries


def weaknesses(entries: list[dict[str, Any]]) -> list[str]:
    """A line for each advisory that is not accepted."""
    found = [(entry, known) for entry in entries for known in entry.get("vulns", ()) if known["id"] not in ACCEPTED]
    return [
        f"advisories   {entry['name']} {entry['version']}: {known['id']}, mended in "
        f"{', '.join(known['fix_versions']) or 'no version yet'}"
        for entry, known in found
    ]


if __name__ == "__main__":
    sys.exit(main())
