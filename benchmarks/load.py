"""What `%load_ext lightning_magics` costs: fresh interpreters, with and without it, in turn.

Run: python benchmarks/load.py [ROUNDS]
"""

import json
import statistics
import subprocess
import sys
import time

SHELL = "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell()"
LOAD = f"""
import json, sys, time
{SHELL}
before, start = set(sys.modules), time.perf_counter()
shell.run_line_magic("load_ext", "lightning_magics")
seconds = time.perf_counter() - start
added = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})
print(json.dumps([seconds, added, len(set(sys.modules) - before)]))
"""


def run(code: str) -> tuple[float, str]:
    """Run code in a fresh interpreter; return its wall time in seconds and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main(rounds: int) -> None:
    without, with_it, inside = [], [], []
    for _ in range(rounds):
        without.append(run(SHELL)[0])
        wall_s, printed = run(LOAD)
        seconds, packages, modules = json.loads(printed)
        with_it.append(wall_s)
        inside.append(seconds)
    print(f"interpreter with an IPython shell  {statistics.median(without):6.3f} s   (median of {rounds})")
    print(f"the same and %load_ext             {statistics.median(with_it):6.3f} s")
    print(f"%load_ext itself                   {statistics.median(inside):6.3f} s")
    print(f"{modules} modules imported by it, of: {', '.join(packages)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
