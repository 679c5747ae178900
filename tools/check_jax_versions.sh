#!/usr/bin/env bash
# Run the tests of sparsecode_jax.flops under several releases of JAX, one after another.
#
#   tools/check_jax_versions.sh [VERSION ...]      (default: 0.10.1 0.9.2 0.8.3)
#
# Each release gets a virtual environment in a temporary directory, removed afterwards. The
# sub-package and its tests are copied there alone: they need only jax, numpy, optax, pytest and
# hypothesis. PYTHON chooses the interpreter. Exits with 1 if a release fails or does not install.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[ $# -gt 0 ] && versions=("$@") || versions=(0.10.1 0.9.2 0.8.3)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tree/sparsecode_jax" "$work/tree/tests"
touch "$work/tree/sparsecode_jax/__init__.py" "$work/tree/tests/__init__.py"
cp -r "$root/sparsecode_jax/flops" "$work/tree/sparsecode_jax/"
cp -r "$root/tests/flops" "$work/tree/tests/"
cp -r "$root/docs" "$root/pyproject.toml" "$work/tree/"

status=0
for version in "${versions[@]}"; do
  env="$work/env"
  "$python" -m venv "$env"
  if "$env/bin/python" -m pip install --quiet --disable-pip-version-check \
    "jax==$version" "jaxlib==$version" "optax>=0.2.6" numpy pytest hypothesis \
    >"$work/install.txt" 2>&1; then
    result=$(cd "$work/tree" && PYTHONPATH=. JAX_PLATFORMS=cpu \
      "$env/bin/python" -m pytest -q tests/flops 2>&1 | tee "$work/tests.txt" | tail -n 1)
    grep -E "^(FAILED|ERROR|E  )" "$work/tests.txt" | head -n 40
    { grep -q passed <<<"$result" && ! grep -qE "failed|error" <<<"$result"; } || status=1
  else
    result="does not install: $(tail -n 1 "$work/install.txt")"
    status=1
  fi
  echo "jax $version: $result"
  rm -rf "$env"
done
exit $status
