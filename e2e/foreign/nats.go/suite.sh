# The tests of nats.go v1.50.0, the last version whose tests start nats-server in their own process: the same stand-in for
# the package `server` that runs nats-server's own tests starts the program instead.
version=v1.50.0
runner=${CONFORMANCE:-$root/../shared/conformance}

prepare() {
  if [ ! -d "$runner" ]; then
    echo "nats.go: no runner at $runner; name its folder with CONFORMANCE" >&2
    exit 2
  fi
  runner=$(realpath "$runner")
  tree=$WORK/nats.go/client
  export GOFLAGS="${GOFLAGS:--p=2} -mod=mod -buildvcs=false"
  (cd "$runner/tool" && GOFLAGS= go build -o "$WORK/nats.go/prepare" ./prepare && GOFLAGS= go build -o "$WORK/nats.go/runner" ./runner)
  "$WORK/nats.go/prepare" "$(module github.com/nats-io/nats-server/v2@v2.15.2)" "$runner" "$WORK/nats.go/server"
  if [ ! -e "$tree/foreign.mod" ]; then
    cp -r "$(module "github.com/nats-io/nats.go@$version")" "$tree.new" && chmod -R u+w "$tree.new"
    { sed 's/^go 1\..*/go 1.26/' "$tree.new/go_test.mod"
      echo "replace github.com/nats-io/nats-server/v2 => $WORK/nats.go/server"; } >"$tree.new/foreign.mod"
    cp "$tree.new/go_test.sum" "$tree.new/foreign.sum"
    rm -rf "$tree" && mv "$tree.new" "$tree"
  fi
  (cd "$tree" && go test -modfile=foreign.mod -tags=internal_testing -c -vet=off -o nats.test ./test)
  # what needs JetStream or WebSocket comes later
  (cd "$tree/test" && grep -Ho '^func Test[A-Za-z0-9_]*' js_test.go js_internal_test.go kv_test.go object_test.go \
    ws_test.go compat_test.go norace_test.go) | sed 's|^\(.*\):func \(.*\)$|nats.go/\1 \2 later|' >"$WORK/nats.go/skip.txt"
}

module() { # folder of a module in the cache
  (cd "$runner/tool" && GOFLAGS= go mod download -json "$1") | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p'
}

try() {
  local only=(-all)
  [ ! -s "$1" ] || only=(-all -run "^($(paste -sd'|' "$1"))\$")
  mkdir -p "$WORK/nats.go/logs"
  : >"$scratch/record"; : >"$scratch/empty"
  "$WORK/nats.go/runner" -suite "nats.go=$tree/nats.test=$tree/test" -skip "$WORK/nats.go/skip.txt" \
    -baseline "$scratch/empty" -binary "$binary" -logs "$WORK/nats.go/logs" -j "$JOBS" -limit 60s \
    -record "$scratch/record" "${only[@]}" >"$scratch/log" 2>&1 || true
  tail -n 1 "$scratch/log"
  awk 'NF { print $2 }' "$scratch/record" >"$scratch/now"
}
