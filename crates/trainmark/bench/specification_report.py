#!/usr/bin/env python3
"""The report generator as the specification describes it, to measure ours against: all result files of a
folder into one JSON and one Markdown report. usage: specification_report.py FOLDER report.json report.md"""

import json
import pathlib
import sys


def main():
    folder, json_path, markdown_path = sys.argv[1:]
    results = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        with open(path) as file:
            results.append(json.load(file))
    models = sorted({result["model"] for result in results})
    backends = sorted({result["backend"] for result in results})
    config = results[0]["config"]
    shared = {key: config[key] for key in ("epochs", "batch_size", "seed")}
    rows = [
        {
            "model": result["model"],
            "backend": result["backend"],
            "compiled": result.get("compiled", False),
            "timestamp": result["timestamp"],
            **result["metrics"],
        }
        for result in results
    ]
    summary = {"total_benchmarks": len(rows), "models": models, "backends": backends, "config": shared}
    with open(json_path, "w") as file:
        json.dump({"summary": summary, "results": rows}, file, indent=2)
    lines = ["# Benchmark Report", "", "## Summary", ""]
    lines += [
        f"- **Total Benchmarks:** {len(rows)}",
        f"- **Models:** {', '.join(models)}",
        f"- **Backends:** {', '.join(backends)}",
        "",
        "### Configuration",
        "",
    ]
    lines += [f"- **{key.replace('_', ' ').title()}:** {value}" for key, value in shared.items()]
    lines += [
        "",
        "## Results",
        "",
        "| Model | Backend | Training Time (s) | Peak Memory (MB) | Test Accuracy (%) |",
        "|-------|---------|-------------------|------------------|-------------------|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['backend']} | {row['training_time_seconds']:.2f} "
            f"| {row['peak_memory_mb']:.2f} | {row['test_accuracy_percent']:.2f} |"
        )
    with open(markdown_path, "w") as file:
        file.write("\n".join(lines) + "\n")


main()
