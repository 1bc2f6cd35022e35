#!/usr/bin/env python3
"""Our reports against those of the specification's script, in turns on one warm folder: CPU seconds, wall
seconds and memory of each, medians, and the ratios. The system calls alone are measured in the same turns.

usage: reports.py FOLDER [ROUNDS]     (from the repository's root, after `cargo build --release`)
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent
TRAINMARK = BENCH.parents[2] / "target/release/trainmark"


def run(command):
    """User, system and wall seconds and the peak of memory in MB of 10^6 bytes."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"error: {command[0]} ended with {child.returncode}")
    return usage.ru_utime, usage.ru_stime, wall_s, usage.ru_maxrss * 1024 / 1e6


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 7
    with tempfile.TemporaryDirectory() as scratch:
        floor = f"{scratch}/floor"
        subprocess.run(["cc", "-O2", "-o", floor, BENCH / "read_floor.c"], check=True)
        commands = {
            "script": [sys.executable, BENCH / "specification_report.py", folder,
                       f"{scratch}/a.json", f"{scratch}/a.md"],
            "trainmark": [TRAINMARK, "report", "--input", folder,
                          "--output", f"{scratch}/b.json", "--markdown", f"{scratch}/b.md"],
            "floor": [floor, folder],
        }  # fmt: skip
        taken = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                figures = run(command)
                if number:  # the first only warms
                    taken[name].append(figures)
    print("medians     user   system      CPU     wall   memory")
    median = {}
    for name, figures in taken.items():
        user, system, wall, memory = (statistics.median(column) for column in zip(*figures))
        cpu = statistics.median(it[0] + it[1] for it in figures)
        median[name] = cpu, wall
        print(f"{name:9} {user:6.3f} s {system:6.3f} s {cpu:6.3f} s {wall:6.3f} s {memory:5.0f} MB")
    for index, kind in enumerate(("CPU", "wall")):
        pairs = zip(taken["script"], taken["trainmark"])
        ratios = [
            (a[0] + a[1]) / (b[0] + b[1]) if index == 0 else a[2] / b[2] for a, b in pairs
        ]
        ratio = median["script"][index] / median["trainmark"][index]
        print(f"{kind}: {ratio:.1f} times less (rounds: {min(ratios):.1f} to {max(ratios):.1f})")
    above = median["trainmark"][0] - median["floor"][0]
    print(f"above the floor: {above:.3f} s of CPU")


main()
