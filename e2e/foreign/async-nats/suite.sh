# The tests of async-nats, of the version that e2e itself uses: the crate brings them along, but for the crate that
# starts servers, which `launcher` is here in place of. service_tests stays out: it fetches schemas from the web.
tests="client_tests jwt_tests nkey_tests server_pool_parity_tests server_pool_tests subject_validation_test tls_tests"

prepare() {
  local manifest source
  manifest=$(cd "$root" && cargo metadata --format-version 1 --locked | tr ',' '\n' |
    sed -n 's|.*"manifest_path":"\(.*/async-nats-[0-9][^"]*/Cargo.toml\)".*|\1|p' | head -n 1)
  source=$(dirname "$manifest")
  tree=$WORK/async-nats/$(basename "$source")
  if [ ! -e "$tree/Cargo.toml" ]; then
    cp -r "$source" "$tree.new" && chmod -R u+w "$tree.new"
    # examples, benchmarks and the tools that only they and the web tests need would be built for nothing
    awk '/^\[/ { drop = /^\[\[(example|bench|test)\]\]/ || /^\[dev-dependencies\.(criterion|jsonschema|reqwest)\]/ }
      !drop' "$source/Cargo.toml" >"$tree.new/Cargo.toml"
    sed -i 's/^auto\(tests\|examples\|benches\) = .*//' "$tree.new/Cargo.toml"
    sed -i 's/^\[package\]$/[package]\nautoexamples = false\nautobenches = false\nautotests = false/' "$tree.new/Cargo.toml"
    for test in $tests; do printf '\n[[test]]\nname = "%s"\npath = "tests/%s.rs"\n' "$test" "$test"; done >>"$tree.new/Cargo.toml"
    printf '\n[dev-dependencies.nats-server]\npath = "../launcher"\n\n[profile.dev]\ndebug = false\n' >>"$tree.new/Cargo.toml"
    mv "$tree.new" "$tree"
  fi
  # beside the sources: what is kept from an earlier run must not name the folder of another checkout
  ln -sfn "$here/async-nats/launcher" "$WORK/async-nats/launcher"
  sed -i 's|^path = ".*/e2e/foreign/async-nats/launcher"$|path = "../launcher"|' "$tree/Cargo.toml"
  (cd "$tree" && CARGO_TARGET_DIR=$WORK/async-nats/target cargo test --no-run -q 2>&1 | grep -v '^warning' || true)
}

try() { # every test of a binary has a name of its own: `binary::path`
  local test
  for test in $tests; do
    (cd "$tree" && sed -n "s/^$test:://p" "$1" >"$scratch/names" &&
      { [ ! -s "$1" ] || [ -s "$scratch/names" ]; } || exit 0
      CARGO_TARGET_DIR=$WORK/async-nats/target timeout 300 cargo test -q --test "$test" --no-fail-fast -- \
        --exact $(cat "$scratch/names") --test-threads "$JOBS" --format=pretty 2>&1 || true) |
      sed -n "s/^test \(.*\) \.\.\. ok\$/$test::\1/p"
  done >"$scratch/now"
}
