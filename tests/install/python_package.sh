#!/usr/bin/env bash
# Builds the Python package's sdist, from it, without protoc, its wheel, installs that into clean virtual environments and
# runs a first session there against a running calibd: with Debian's grpcio, protobuf and numpy, and with the newest ones.
# usage: tests/install/python_package.sh BUILD [PYTHON...]       further interpreters get the newest ones too
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=$(realpath "$1")
shift

work=$(mktemp -d)
server=""
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

export PIP_DISABLE_PIP_VERSION_CHECK=1
/usr/bin/python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build==1.3.0
"$work/tools/bin/python" -m build --sdist --outdir "$work" client/python >"$work/sdist.log" || {
  cat "$work/sdist.log"
  exit 1
}
# A PATH without protoc: an sdist has what it would generate.
mkdir "$work/bin"
ln -s "$work/tools/bin/python" "$work/bin/python"
mkdir "$work/wheel"
PATH="$work/bin" "$work/tools/bin/pip" wheel --quiet --no-deps --wheel-dir "$work/wheel" "$work"/calibd-*.tar.gz
wheel=$(echo "$work"/wheel/calibd-*-py3-none-any.whl)
[ -f "$wheel" ] || { echo "$0: there is no py3-none-any wheel in: $(ls "$work/wheel")" >&2; exit 1; }
echo "built $(basename "$work"/calibd-*.tar.gz) and $(basename "$wheel")"

"$build/bin/calibd" --listen 127.0.0.1:0 --http "" --store memory >"$work/ready" &
server=$!
for _ in $(seq 600); do
  ! grep -q '^calibd ready' "$work/ready" || break
  sleep 0.1
done
address=$(sed -n 's/^calibd ready grpc=\([^ ]*\).*/\1/p' "$work/ready")
[ -n "$address" ] || { echo "$0: calibd did not get ready" >&2; exit 1; }

# try_package NAME PYTHON VENV_OPTION...: installs the wheel and runs a first session.
try_package() {
  local name=$1 python=$2
  shift 2
  "$python" -m venv "$@" "$work/$name"
  "$work/$name/bin/pip" install --quiet "$wheel"
  (cd "$work" && timeout 120 "$work/$name/bin/python" "$OLDPWD/tests/install/first_session.py" "$address" "$name")
}

try_package debian /usr/bin/python3 --system-site-packages
try_package newest /usr/bin/python3
for python in "$@"; do try_package "$("$python" -c 'import platform; print(platform.python_version())')" "$python"; done
