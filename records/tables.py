#!/usr/bin/env python3
"""tables.py FOLDER...: the tables of records/, from folders of result files.

A folder of suites/frameworks.toml gives ours against the frameworks and against the machine; one of
suites/scaling.toml the growth with hidden units, batch, epochs and threads. Medians of the samples that
completed, as the result files have them; ratios are of the medians as they are printed. Needs nothing but
Python; `measure.sh` here calls it.
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

OURS = "MNISTClassic"


def load(folder):
    files = sorted(Path(folder).glob("*.json"))
    rows = [json.loads(file.read_text()) for file in files if not file.name.startswith(".")]
    return [row for row in rows if row.get("status") in ("measured", "not_converged")]


def table(title, header, rows):
    if not rows:
        return
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def seconds(value):
    return "-" if value is None else f"{value:.{3 if value >= 1 else 4}f}"


def ratio(value, to):
    """Of what is printed, so that readers find the same."""
    return float(seconds(value)) / float(seconds(to))


def dense_flop(row):
    return next((s["dense_flop"] for s in row["samples"] if s.get("dense_flop")), None)


def peak(row):
    """The highest median rate of multiply-adds on as many threads as the row had."""
    cpu = (row.get("capability") or {}).get("cpu")
    if not cpu:
        return None
    threads = (row.get("trainer") or {}).get("threads") or cpu["threads"]
    rates = [rate["flop_per_s"] for rate in cpu["fma"] if rate["threads"] == threads]
    return max(rates, default=None)


def share(row):
    flop, most = dense_flop(row), peak(row)
    if not flop or not most:
        return "-"
    return f"{100 * flop / row['timing']['train_s'] / most:.0f} %"


def frameworks(rows):
    groups = defaultdict(list)
    for row in rows:
        hidden = row["config"].get("hidden_size")
        groups[(row["model"], hidden, row["config"]["epochs"])].append(row)
    body = []
    for (model, hidden, epochs), group in sorted(groups.items(), key=str):
        ours = next((row for row in group if row["executable"] == OURS), None)
        for row in sorted(group, key=lambda row: row["timing"]["train_s"]):
            timing = row["timing"]
            slower = lambda key: "-" if ours is None else f"{ratio(timing[key], ours['timing'][key]):.1f}x"
            name = f"{model} H={hidden}" if hidden else model
            body.append([
                f"{name}, {epochs} epochs", row["executable"], seconds(timing["train_s"]),
                slower("train_s"), seconds(timing["wall_s"]), slower("wall_s"),
                f"{row['metrics']['peak_memory_mb']:.0f}", seconds(timing.get("setup_s")),
                share(row), f"{row['metrics']['test_accuracy_percent']:.2f}", len(row["samples"]),
            ])
    table(
        "Ours against the frameworks and the machine (train: the loop; wall: the whole process; peak: "
        "dense operations over the train loop, of the measured multiply-add peak)",
        ["model", "trainer", "train s", "ours faster", "wall s", "ours faster", "memory MB",
         "set-up s", "of peak", "accuracy %", "runs"],
        body,
    )


def growth(rows, name, key, title):
    groups = defaultdict(list)
    for row in rows:
        if row["executable"] == name:
            groups[row["model"]].append(row)
    body = []
    for model, group in groups.items():
        group.sort(key=lambda row: row["config"][key])
        first = group[0]
        for row in group:
            train = row["timing"]["train_s"]
            times = row["config"][key] / first["config"][key]
            body.append([
                model, row["config"][key], seconds(train),
                f"{ratio(train, first['timing']['train_s']):.2f}x", f"{times:g}x", share(row),
                f"{row['metrics']['peak_memory_mb']:.0f}",
            ])
    table(title, ["model", key, "train s", "time grew", key + " grew", "of peak", "memory MB"], body)


def threads(rows):
    groups = defaultdict(dict)
    for row in rows:
        if row["executable"] == "by threads":
            groups[(row["model"], row["config"].get("hidden_size"))][row["config"]["threads"]] = row
    body = []
    for (model, hidden), by in groups.items():
        one = by.get(1)
        for count, row in sorted(by.items()):
            faster = f"{ratio(one['timing']['train_s'], row['timing']['train_s']):.2f}x" if one else "-"
            name = f"{model} H={hidden}" if hidden else model
            body.append([name, count, seconds(row["timing"]["train_s"]), faster, share(row)])
    table("Threads, also more than the machine has cores", ["model", "threads", "train s", "faster than one", "of peak"], body)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for folder in sys.argv[1:]:
        rows = load(folder)
        if not rows:
            sys.exit(f"{folder}: no result files of runs that completed")
        if any(row["executable"].startswith("by ") for row in rows):
            growth(rows, "by hidden units", "hidden_size", "Hidden units (one thread, an epoch)")
            growth(rows, "by batch", "batch_size", "Batch (one thread, an epoch)")
            growth(rows, "by epochs", "epochs", "Epochs (one thread, H=256)")
            threads(rows)
        else:
            frameworks(rows)


main()
