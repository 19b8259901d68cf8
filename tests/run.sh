#!/usr/bin/env bash
# Does everything on a fresh Debian 12, as root or with sudo: installs packages, builds, runs every test but slow ones.
# usage: tests/run.sh [--list] [STAGE...]        with stages named: only those, in the order given
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stages=(packages style build test python clang tidy asan tsan bench-smoke)
on_request=(slow)
buf_version=1.75.0
# Most of a build is parsing headers of other projects: files are compiled a dozen at a time, which is cheaper than
# precompiled headers for so few.
unity=(-DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12 -DCALIB_PRECOMPILE=OFF)

jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$jobs} CTEST_OUTPUT_ON_FAILURE=1
export PYTHONDONTWRITEBYTECODE=1
# What ccache must overlook to use precompiled headers.
export CCACHE_SLOPPINESS=pch_defines,time_macros

describe() {
  case $1 in
    packages) echo "install the Debian packages of deploy/packages.txt" ;;
    style) echo "formatting, layering, file sizes, include guards, protos, shell scripts" ;;
    build) echo "GCC, Release, several files at once, warnings are errors, into build/" ;;
    test) echo "every test, in build/" ;;
    python) echo "the Python package: formatting, types, its tests with Debian's packages, installed from wheel and sdist" ;;
    clang) echo "Clang, everything but tests, thread safety analysis as errors, into build-clang/" ;;
    tidy) echo "clang-tidy with the list of .clang-tidy" ;;
    asan) echo "tests of quant, codec, store and engine under AddressSanitizer and UBSan, in build-asan/" ;;
    tsan) echo "tests of quant and engine under ThreadSanitizer, in build-tsan/" ;;
    bench-smoke) echo "every benchmark once, briefly" ;;
    slow) echo "hundreds of crashes at random times, in build/; only when named" ;;
    *) return 1 ;;
  esac
}

stage_packages() { bash deploy/install_packages.sh build test bench; }

stage_style() {
  sources '*.h' '*.cc' | xargs -0 clang-format --dry-run -Werror
  python3 tests/style/layering_test.py
  python3 tests/style/files_test.py
  shellcheck .ci/run deploy/*.sh tests/*.sh tests/install/*.sh
  local buf=build-style/node_modules/.bin/buf
  if [ "$("$buf" --version 2>/dev/null)" != "$buf_version" ]; then
    npm install --prefix build-style --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
      "@bufbuild/buf@$buf_version"
  fi
  "$buf" lint proto
}

stage_build() {
  configure build -DCMAKE_BUILD_TYPE=Release "${unity[@]}"
  cmake --build build
}

stage_test() { run_ctest build; }

stage_python() {
  local config=client/python/pyproject.toml
  python_venv build/python-lint tests/python/lint_requirements.txt
  local code=(client/python tests/python tests/install)
  build/python-lint/bin/ruff format --check --quiet --no-cache --config "$config" "${code[@]}"
  build/python-lint/bin/ruff check --quiet --no-cache --config "$config" "${code[@]}"
  MYPYPATH=build/python build/python-lint/bin/mypy --config-file "$config" --cache-dir build/mypy
  python_venv build/python-venv tests/python/requirements.txt --system-site-packages
  local readers=tests/python/exports/requirements.txt
  if ! cmp -s "$readers" build/python-venv/readers.txt; then
    build/python-venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r "$readers"
    cp "$readers" build/python-venv/readers.txt
  fi
  CALIBD_ALL_READERS=1 PYTHONPATH=build/python build/python-venv/bin/python -m pytest -p no:cacheprovider tests/python 2>&1 | tee build/pytest.log
  local name interpreters=()
  for name in python3.9 python3.13; do # the oldest and the newest that the package is for, where they are
    if "$name" -m ensurepip --version >/dev/null 2>&1; then interpreters+=("$(command -v "$name")"); fi
  done
  bash tests/install/python_package.sh build "${interpreters[@]}"
}

# Compiles without optimization: this build is for what Clang says.
configure_clang() {
  configure build-clang "${unity[@]}" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
    -DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=lld -DCALIB_BUILD_TESTS=OFF -DCALIB_BUILD_BENCHMARKS=OFF
}

stage_clang() {
  configure_clang
  cmake --build build-clang
}

stage_tidy() {
  configure_clang
  cmake --build build-clang --target calib_proto calib_store_proto
  # What decides numbers and state, and needs no gRPC. The files that join a dozen others: the parsing of headers takes most
  # of the time. Kernels have compile options of their own and are not joined.
  {
    find build-clang/quant build-clang/proto/codec build-clang/server/{base,store,engine,export} -name 'unity_*.cxx' -print0
    find quant/kernels -name '*.cc' -print0
  } | sort -z | xargs -0 -n 1 -P "$jobs" clang-tidy --quiet --header-filter='/(quant|proto/codec|server)/' -p build-clang
}

stage_asan() { run_sanitized build-asan address,undefined "quant;codec;store;engine;export"; }

# Without address layout randomization: GCC 12's ThreadSanitizer does not know the layouts of newer kernels.
stage_tsan() { run_sanitized build-tsan thread "quant;engine" setarch "$(uname -m)" --addr-no-randomize; }

stage_bench-smoke() { python3 tests/bench/run.py --quick --build build; }

stage_slow() { ctest --test-dir build -C slow -L slow --no-tests=error 2>&1 | tee build/slow.log; }

# python_venv DIR REQUIREMENTS [OPTION...]: a virtual environment of Debian's Python, made again when the file changed.
python_venv() {
  local directory=$1 requirements=$2
  shift 2
  if cmp -s "$requirements" "$directory/requirements.txt"; then return; fi
  /usr/bin/python3 -m venv --clear "$@" "$directory"
  "$directory/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$directory/requirements.txt"
}

# sources PATTERN...: our C++ files of these names, each ended by a zero byte.
sources() {
  local names=()
  for pattern in "$@"; do names+=(-o -name "$pattern"); done
  find quant proto server client tests -type f \( "${names[@]:1}" \) -print0 | sort -z
}

# configure DIR OPTION...
configure() {
  local directory=$1
  shift
  local launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  cmake -S . -B "$directory" -G Ninja -Wno-dev --log-level=WARNING "${launcher[@]}" "$@"
}

# run_ctest DIR [COMMAND...]: every test of a build, run by COMMAND if given; its summary is kept for the closing line.
run_ctest() {
  local directory=$1
  shift
  "$@" ctest --test-dir "$directory" --no-tests=error 2>&1 | tee "$directory/ctest.log"
}

# run_sanitized DIR SANITIZERS FOLDERS [COMMAND...]: tests that need no gRPC, which is not built for sanitizers. Warnings
# are errors in the other builds; sanitizers add false ones.
run_sanitized() {
  local directory=$1 sanitizers=$2 folders=$3
  shift 3
  configure "$directory" -DCALIB_SANITIZE="$sanitizers" -DCALIB_TEST_FOLDERS="$folders" "${unity[@]}" -DCALIB_BUILD_SERVER=OFF -DCALIB_BUILD_CLIENT=OFF \
    -DCALIB_BUILD_BENCHMARKS=OFF -DCALIB_WERROR=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1" \
    -DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=lld
  "$@" cmake --build "$directory"
  run_ctest "$directory" "$@"
}

# print_test_count LOG...: the sum of the summaries of ctest and pytest, as `N passed, N failed[, N skipped]`; false if no test ran.
print_test_count() {
  cat "$@" 2>/dev/null | awk '
    /tests passed, [0-9]+ tests failed out of [0-9]+/ {
      for (i = 1; i <= NF; i++) if ($(i + 1) == "tests" && $(i + 2) == "failed") failed += $i
      total += $NF
    }
    /\*\*\*Skipped/ { skipped++ }
    # === 3 failed, 40 passed, 2 skipped, 1 warning in 5.00s ===
    /^=+ .* in [0-9.]+s( \([0-9:]+\))? =+$/ {
      for (i = 2; i < NF; i++) {
        if ($(i + 1) ~ /^(failed|passed|skipped|errors?),?$/) total += $i
        if ($(i + 1) ~ /^(failed|errors?),?$/) failed += $i
        if ($(i + 1) ~ /^skipped,?$/) skipped += $i
      }
    }
    END {
      printf "%d passed, %d failed%s\n", total - failed - skipped, failed, skipped ? ", " skipped " skipped" : ""
      exit total == 0
    }'
}

if [ "${1:-}" = --list ]; then
  for stage in "${stages[@]}" "${on_request[@]}"; do printf '%-12s %s\n' "$stage" "$(describe "$stage")"; done
  exit 0
fi
for stage in "$@"; do
  describe "$stage" >/dev/null || {
    echo "$0: there is no stage '$stage'; the stages are: ${stages[*]} ${on_request[*]}" >&2
    exit 2
  }
done
[ $# -eq 0 ] || stages=("$@")

table=()
logs=()
failed=""
rm -f build/ctest.log build/pytest.log build/slow.log build-asan/ctest.log build-tsan/ctest.log
for stage in "${stages[@]}"; do
  printf '\n=== %s: %s\n' "$stage" "$(describe "$stage")"
  started=$SECONDS
  # Not in a condition: that would switch errexit off inside.
  set +e
  (set -e; "stage_$stage") </dev/null
  status=$?
  set -e
  result=ok
  if [ $status -ne 0 ]; then
    result=FAILED
    failed=$stage
  fi
  table+=("$(printf '%-12s %-7s %5d' "$stage" "$result" $((SECONDS - started)))")
  case $stage in
    test) logs+=(build/ctest.log) ;;
    python) logs+=(build/pytest.log) ;;
    slow) logs+=(build/slow.log) ;;
    asan | tsan) logs+=("build-$stage/ctest.log") ;;
  esac
  [ -z "$failed" ] || break
done

printf '\n%-12s %-7s %5s\n' stage result seconds
printf '%s\n' "${table[@]}" "$(printf '%-12s %-7s %5d' all "${failed:+FAILED}" "$SECONDS")"
[ -z "$failed" ] || printf '\nStage %s failed; what it printed is above. Again: tests/run.sh %s\n' "$failed" "$failed"
if [ ${#logs[@]} -gt 0 ]; then
  print_test_count "${logs[@]}" || failed=${failed:-${stages[-1]}}
fi
[ -z "$failed" ]
