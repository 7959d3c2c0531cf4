"""Fetches the ONNX Runtime library that `interdict` loads, out of the pinned wheel on PyPI.

The wheel's hash is checked by pip against the requirements file. The library appears under its name whole or not at
all. Needs nothing beyond the standard library and pip, and no particular version of Python.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PLATFORMS = {
    ("Linux", "x86_64"): "manylinux_2_28_x86_64",
    ("Linux", "aarch64"): "manylinux_2_28_aarch64",
}


def stop(message: str) -> None:
    sys.exit(
        f"onnxruntime: {message}\n"
        "Or take a library of the same version from elsewhere and name it:\n"
        "    export INTERDICT_ONNXRUNTIME=/path/to/libonnxruntime.so"
    )


def download(requirements: Path, folder: str) -> Path:
    machine = (platform.system(), platform.machine())
    if machine not in PLATFORMS:
        stop(f"no wheel is pinned for {machine[0]} on {machine[1]}; add its hash to {requirements}.")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        stop(f"{sys.executable} has no pip; install it (Debian: apt-get install python3-pip) and try again.")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)]
    # The library inside is the same for every Python, so the wheel of one version serves all.
    command += ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"]
    command += ["--platform", PLATFORMS[machine], "--dest", folder]
    if subprocess.run(command).returncode:
        stop(
            "pip could not download the wheel (its message stands above). Check the way to PyPI "
            "(PIP_INDEX_URL, PIP_CERT and HTTPS_PROXY are honoured) and try again."
        )
    return next(Path(folder).glob("onnxruntime-*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requirements", type=Path, required=True)
    parser.add_argument("--library", dest="destination", metavar="FILE", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(options.requirements, folder)
        with zipfile.ZipFile(wheel) as archive:
            library = archive.read(f"onnxruntime/capi/{options.destination.name}")
    options.destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.destination.with_name(f"{options.destination.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(library)
    unfinished.replace(options.destination)
    print(f"onnxruntime: {options.destination}")


if __name__ == "__main__":
    main()
