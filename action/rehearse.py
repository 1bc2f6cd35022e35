#!/usr/bin/env python3
"""Runs action.yml's steps as GitHub would, on a repository made for it: inputs, expressions, outputs, paths and
conditions are the file's own; only `cargo install` and `gh` are stand-ins. Needs PyYAML.

usage: action/rehearse.py target/release/trainmark
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CARGO = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = --root ] && root=$2; shift; done
mkdir -p "$root/bin" && cp "$BINARY" "$root/bin/trainmark"
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def repository(folder):
    """Its head trains half as fast as its base, whose commit is returned."""
    folder.mkdir()
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    shutil.copy(HERE / "rehearsal" / "suite.toml", folder)
    trainer = (HERE / "rehearsal" / "train.sh").read_text()
    commits = []
    for train_s in ("0.02", "0.04"):
        executable(folder / "train.sh", trainer.replace("TRAIN_S", train_s))
        subprocess.run([*git, "add", "."], cwd=folder, check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "x"], cwd=folder, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True)
        commits.append(head.stdout.decode().strip())
    return commits[0]


class Expressions:
    """Those that the action uses: names, `||`, `&&` and `==`. Anything else is an error."""

    def __init__(self, context):
        self.context = context

    def value(self, text):
        for name in text.split("||"):
            if found := self.context[name.strip()]:
                return found
        return ""

    def filled(self, text):
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: self.value(found[1]), str(text))

    def holds(self, text):
        sides = (clause.split("==") for clause in text.split("&&"))
        return all(self.value(name) == wanted.strip().strip("'") for name, wanted in sides)


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    action = yaml.safe_load((HERE.parent / "action.yml").read_text())
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        (place / "bin").mkdir()
        executable(place / "bin" / "cargo", CARGO)
        executable(place / "bin" / "gh", '#!/bin/sh\necho "gh $*" >> "$HOME/gh.log"\n')
        context = {
            "github.event.pull_request.base.sha": repository(place / "repository"),
            "github.event.before": "",
            "github.event_name": "pull_request",
            "toJSON(matrix)": "null",
            "github.event.pull_request.number": "7",
            "github.token": "token",
            "runner.temp": name,
        }
        expressions = Expressions(context)
        for key, declared in action["inputs"].items():
            given = {"suite": "suite.toml"}.get(key)
            context[f"inputs.{key}"] = given or expressions.filled(declared.get("default", ""))
        path, codes = [str(place / "bin")], {}
        for step in action["runs"]["steps"]:
            if "if" in step and not expressions.holds(step["if"]):
                continue
            files = {key: place / key for key in ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
            files["GITHUB_OUTPUT"].write_text("")
            files["GITHUB_PATH"].write_text("")
            variables = {key: expressions.filled(value) for key, value in step.get("env", {}).items()}
            environment = os.environ | {key: str(file) for key, file in files.items()} | variables
            environment |= {
                "PATH": ":".join([*reversed(path), os.environ["PATH"]]),
                "HOME": name,
                "BINARY": str(binary),
                "RUNNER_TEMP": name,
                "GITHUB_ACTION_PATH": str(HERE.parent),
                "GITHUB_WORKSPACE": str(place / "repository"),
                "GITHUB_REPOSITORY": "owner/name",
            }
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            codes[step["name"]] = subprocess.run(shell, cwd=place / "repository", env=environment).returncode
            for line in files["GITHUB_OUTPUT"].read_text().splitlines():
                key, _, value = line.partition("=")
                context[f"steps.{step.get('id')}.outputs.{key}"] = value
            path += files["GITHUB_PATH"].read_text().split()
            if codes[step["name"]]:
                break
        outputs = {key: expressions.filled(it["value"]) for key, it in action["outputs"].items()}
        summary = (place / "GITHUB_STEP_SUMMARY").read_text()
        comment = (place / "gh.log").read_text()
    assert list(codes.values()) == [0, 0, 0, 1], codes
    assert outputs["regression"] == "true" and outputs["results"].startswith(name), outputs
    assert "**REGRESSION**" in summary, summary
    assert "POST repos/owner/name/issues/7/comments" in comment, comment
    print(f"every step ran and the regression was found: {codes}")


main()
