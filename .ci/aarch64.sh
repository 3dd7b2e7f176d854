#!/usr/bin/env bash
# What the aarch64 test needs, in one folder (default .venv/aarch64): the cross compilers and qemu from the
# distribution, TVM's runtime from its aarch64 wheel, and the C++ host built against both. Does only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${1:-.venv/aarch64}
TOOLS=(aarch64-linux-gnu-g++ arm-linux-gnueabihf-g++ qemu-aarch64-static)
PACKAGES=(g++-aarch64-linux-gnu g++-arm-linux-gnueabihf qemu-user-static)

missing=()
for tool in "${TOOLS[@]}"; do command -v "$tool" > /dev/null || missing+=("$tool"); done
if ((${#missing[@]})); then
    apt=(apt-get)
    ((EUID == 0)) || apt=(sudo -n apt-get)
    if ! { "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends "${PACKAGES[@]}"; } > /dev/null 2>&1
    then
        echo "not installed: ${missing[*]}; run: sudo apt-get install ${PACKAGES[*]}" >&2
        exit 1
    fi
fi

tvm=$("$PYTHON" -c 'from importlib.metadata import version; print(version("apache-tvm"))')
ffi=$("$PYTHON" -c 'from importlib.metadata import version; print(version("apache-tvm-ffi"))')
stamp="apache-tvm $tvm, apache-tvm-ffi $ffi, $(sha256sum < tests/export/aarch64_host.cc)"
if [[ -x $OUT/tvm_host && -f $OUT/stamp && $(< "$OUT/stamp") == "$stamp" ]]; then exit 0; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$OUT"
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --python-version 3.11 -d "$scratch" \
    "apache-tvm==$tvm" "apache-tvm-ffi==$ffi"
"$PYTHON" - "$scratch" "$OUT" << 'END'
import sys, zipfile
from pathlib import Path

for wheel in Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).name in ("libtvm_runtime.so", "libtvm_ffi.so"):
                Path(sys.argv[2], Path(name).name).write_bytes(archive.read(name))
END
packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
aarch64-linux-gnu-g++ -std=c++17 -O1 tests/export/aarch64_host.cc -o "$OUT/tvm_host" \
    -I"$packages/tvm_ffi/include" -I"$packages/tvm_ffi/include/dlpack" \
    -L"$OUT" -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN'
echo "$stamp" > "$OUT/stamp"
