#!/usr/bin/env bash
# One command for a machine with an NVIDIA GPU: the test suite on CuPy, the certificate of parity, and the benchmarks
# against PyTorch. It needs no network and no git, installs nothing, and ends within ten minutes with a summary.
#
#   tools/gpu_check.sh                          a first look at everything, results into docs/gpu/
#   tools/gpu_check.sh --only bench             one part; parity, tests, bench, profile, cifar; may be repeated
#   tools/gpu_check.sh --only bench --nets resnet18 --seconds 570
#                                               some networks; what earlier calls measured is kept
#   tools/gpu_check.sh --only cifar --data DIR  CIFAR-10 with ResNet-18; DIR holds the binary version
#   tools/gpu_check.sh --help                   all options
#
# PYTHON chooses the interpreter (python3): the one that has CuPy, and PyTorch to compare with.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONUNBUFFERED=1 PYTHONUTF8=1
exec "${PYTHON:-python3}" "$here/gpu_check.py" "$@"
