"""Lets PyTorch's only Linux wheel on the package index, the one for CUDA, run on a machine without
CUDA, and without the gigabytes of CUDA libraries that it asks for. `trainmark setup` calls it.

The wheel's libraries name CUDA's as needed, so that the loader refuses to start without them, though
on a CPU nothing in them is ever called. This makes small libraries of those names and versions in
torch's own folder, whose every function returns 1, an error. Only CUDA's runtime itself is installed
(it registers the kernels when it is loaded, and says honestly that there is no driver). Libraries that
are there already, as after an installation for a GPU, are left alone."""

import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

FOLDER = Path(sysconfig.get_path("platlib")) / "torch" / "lib"
# Library, and what marks its functions: the version they are asked for in, or how their names begin.
LIBRARIES = {
    "libcublas.so.13": "@libcublas.so.13",
    "libcublasLt.so.13": "@libcublasLt.so.13",
    "libcudnn.so.9": "@libcudnn.so.9",
    "libcufft.so.12": "@libcufft.so.12",
    "libcufile.so.0": "cuFile",
    "libcupti.so.13": "@libcupti.so.13",
    "libcusparse.so.12": "@libcusparse.so.12",
    "libcusparseLt.so.0": "cusparseLt",
    "libnccl.so.2": "nccl",
    "libnvrtc.so.13": "@libnvrtc.so.13",
    "libnvshmem_host.so.3": "@NVSHMEM",
}


def main():
    if sys.platform != "linux" or not (FOLDER / "libtorch_cuda.so").exists():
        return
    installed = {file.name for file in FOLDER.parents[1].glob("nvidia/*/lib/*")}
    missing = [library for library in LIBRARIES if library not in installed]
    wanted = undefined() if missing else {}
    for library in missing:
        mark = LIBRARIES[library]
        if mark.startswith("@"):
            names = wanted[mark[1:]]
        else:
            names = {name for name in wanted[""] if name.startswith(mark)}
        make(library, sorted(names), mark.removeprefix("@") if mark.startswith("@") else None)


def undefined():
    """What torch's libraries want from others: names by version."""
    wanted = defaultdict(set)
    for file in FOLDER.glob("lib*torch*.so"):
        lines = run(["nm", "-D", "--undefined-only", str(file)]).splitlines()
        for symbol in (line.split()[-1] for line in lines):
            name, _, version = symbol.partition("@")
            wanted[version.lstrip("@")].add(name)
    return wanted


def make(library, names, version):
    source = "".join(f"int {name}(void) {{ return 1; }}\n" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        versions = Path(folder) / "versions"
        versions.write_text(f"{version} {{ global: *; }};\n" if version else "{ global: *; };\n")
        run(
            ["cc", "-shared", "-nostdlib", "-x", "c", "-", "-o", str(FOLDER / library),
             f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"],
            source,
        )


def run(command, text=""):
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(f"error: `{command[0]}` is not there; install a C compiler and binutils")
    if done.returncode:
        sys.exit(f"error: `{' '.join(command)}`: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


main()
