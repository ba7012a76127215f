# The tests of nats.py 2.14.0, the last release whose source archive has them, but for the module that starts servers,
# which utils.py here is in place of. Each file runs in a network namespace of its own: the ports are fixed.
version=2.14.0
files="test_client test_client_async_await test_client_v2 test_micro_service test_nuid test_parser"

prepare() {
  tree=$WORK/nats.py/nats_py-$version
  python3 -c 'import venv, ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -qq -y python3-venv; } >/dev/null
  [ -x "$WORK/nats.py/venv/bin/pytest" ] || {
    python3 -m venv "$WORK/nats.py/venv"
    "$WORK/nats.py/venv/bin/pip" install -q --upgrade pytest nkeys setuptools
  }
  if [ ! -e "$tree" ]; then
    # (download, not install: the tests are in the source archive only)
    "$WORK/nats.py/venv/bin/pip" download -q --no-deps --no-build-isolation --no-binary :all: \
      -d "$WORK/nats.py" "nats-py==$version"
    tar xzf "$WORK/nats.py/nats_py-$version.tar.gz" -C "$WORK/nats.py"
  fi
  cp "$here/nats.py/utils.py" "$here/nats.py/no_auth_user.conf" "$tree/tests/"
  touch "$tree/tests/__init__.py"
}

try() {
  local file
  for file in $files; do
    if [ -s "$1" ]; then sed -n "s|^$file::|tests/$file.py::|p" "$1"; else echo "tests/$file.py"; fi >"$scratch/$file.ids"
  done
  export scratch tree
  printf '%s\n' $files | xargs -P "$JOBS" -I{} bash -c '
    [ -s "$scratch/{}.ids" ] || exit 0
    cd "$tree"
    PYTHONPATH=src unshare --net bash -c "ip link set lo up; exec timeout 280 $WORK/nats.py/venv/bin/pytest -q -rA -p no:cacheprovider \$(cat $scratch/{}.ids)" >"$scratch/{}.log" 2>&1 || true'
  for file in $files; do
    [ ! -e "$scratch/$file.log" ] || sed -n 's|^PASSED tests/\(.*\)\.py::\(.*\)$|\1::\2|p' "$scratch/$file.log"
  done >"$scratch/now"
}
