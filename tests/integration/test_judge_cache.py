"""The cache of verdicts outlives its process, and several processes share it."""

import subprocess
import sys
from pathlib import Path

from rewards.judges.cache import CachedJudge
from rewards.judges.lexical import LexicalJudge

ROOT = Path(__file__).resolve().parents[2]
RIGHT, WRONG = ("Ali Daei scored 109 goals.", "Daei scored 109."), ("Ali Daei scored 109 goals.", "Daei scored 805.")


def test_verdicts_survive_the_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from rewards.judges.lexical import LexicalJudge; from rewards.judges.cache import CachedJudge;"
        f"cache = CachedJudge(LexicalJudge(), Path({str(tmp_path / 'sub' / 'verdicts.sqlite')!r}), model='m@1');"
        f"print(cache.entails([{RIGHT!r}, {WRONG!r}]), cache.pop_metrics())"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert lines == [
        "[1.0, 0.0] {'asked': 2.0, 'hit_rate': 0.0}",
        "[1.0, 0.0] {'asked': 2.0, 'hit_rate': 1.0}",
    ]


def test_processes_that_start_and_write_together_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    code = (
        "import sys; from pathlib import Path;"
        "from rewards.judges.lexical import LexicalJudge; from rewards.judges.cache import CachedJudge;"
        f"cache = CachedJudge(LexicalJudge(), Path({str(path)!r}), model='m@1');"
        "first = int(sys.argv[1]);"
        "[cache.entails([(f'text {n}', f'text {n}'), ('shared', f'{n % 7}')]) for n in range(first, first + 100)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(first)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for first in (0, 100, 200)
    ]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 3
    cache = CachedJudge(LexicalJudge(), path, model="m@1")
    asked = [(f"text {n}", f"text {n}") for n in range(300)]
    assert cache.entails([*asked, ("shared", "3")]) == [1.0] * 300 + [0.0]
    assert cache.pop_metrics() == {"asked": 301.0, "hit_rate": 1.0}
