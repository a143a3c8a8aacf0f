#!/usr/bin/env bash
# Runs everything: unit and integration tests with all features, doc tests, the fuzz targets' drivers, and every example, in
# memory and on a real etcd and Redis. The servers that the tests need are started by them, on free ports; what is missing on a Debian
# machine is installed first, and Python clients into cargo's target directory. `--install-only` stops after that, and `--build-only` after
# building the tests.
#
# This is the short suite. LEASEHOLD_ALL=1 takes hours: it repeats the conformance suite and all faults, runs what can go on and on for
# minutes, and runs what needs a Redis on other servers as well: the programs in LEASEHOLD_REDIS_SERVERS, or Valkey if it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# Server, its package, and so on.
install_missing() {
    local missing=() pair
    for pair in etcd:etcd-server etcdctl:etcd-client redis-server:redis-server redis-cli:redis-tools protoc:protobuf-compiler cc:gcc setpriv:util-linux faketime:faketime; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    # The C library's start files come apart from the compiler, and protoc's include files apart from protoc.
    [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    [ -n "${PROTOC_INCLUDE:-}" ] || echo 'syntax = "proto3"; import "google/protobuf/descriptor.proto";' |
        protoc --proto_path=/dev --descriptor_set_out=/dev/null /dev/stdin >/dev/null 2>&1 || missing+=(libprotobuf-dev)
    # Debian has it apart from python3, which it needs.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "needs ${missing[*]}, and there is no apt-get to install them with"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "needs ${missing[*]}: install them, or run this as root"
        root=(sudo)
    fi
    local log
    log=$(mktemp)
    if ! { "${root[@]}" apt-get update &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        fail "cannot install ${missing[*]} with apt-get"
    fi
    rm -f "$log"
    # Debian starts a server that it installs; ours are started by the tests.
    hash -r
}

# The Python clients whose locks are tested together with ours, anew if others are wanted than are there.
install_python_clients() {
    local wanted=tests/interop/requirements.txt log
    [ -x "$target/python/bin/python" ] && cmp -s "$wanted" "$target/python/requirements.txt" && return
    say "installing $(tr '\n' ' ' <"$wanted")"
    log=$(mktemp)
    rm -rf "$target/python"
    if ! { python3 -m venv "$target/python" &&
        "$target/python/bin/python" -m pip install --disable-pip-version-check -r "$wanted"; } >"$log" 2>&1; then
        cat "$log" >&2
        fail "cannot install what $wanted names with pip"
    fi
    rm -f "$log"
    cp "$wanted" "$target/python/"
}

all=${LEASEHOLD_ALL:-}
redis_servers=()
if [ -n "$all" ]; then
    read -ra redis_servers <<<"${LEASEHOLD_REDIS_SERVERS-$(command -v valkey-server || true)}"
    for server in "${redis_servers[@]}"; do
        command -v "$server" >/dev/null || fail "LEASEHOLD_REDIS_SERVERS: there is no program $server"
    done
fi

install_missing
command -v cargo >/dev/null || fail "needs a Rust toolchain"
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
install_python_clients
mode=${1:-}
[ "$mode" = --install-only ] && exit

export RUST_BACKTRACE=${RUST_BACKTRACE:-1}
# Lines are all that a backtrace shows; the rest makes a test program three times as large.
export CARGO_PROFILE_DEV_DEBUG=${CARGO_PROFILE_DEV_DEBUG:-line-tables-only}
# Most tests wait for servers and times, so more of them than there are processors go at a time.
cores=$(nproc)
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((cores < 2 ? 4 : 3 * cores))}
if [ -n "$all" ]; then
    export LEASEHOLD_REPEAT=${LEASEHOLD_REPEAT:-20} LEASEHOLD_SOAK=${LEASEHOLD_SOAK:-120} LEASEHOLD_CASES=${LEASEHOLD_CASES:-20000}
    LEASEHOLD_FAULTS=${LEASEHOLD_FAULTS:-$(seq -s, 1 45)}
    export LEASEHOLD_FAULTS
fi
# Always the same selection, for which cargo builds each dependency once.
everything=(--package leasehold --package leasehold-tests --all-features)
if [ "$mode" = --build-only ]; then
    cargo test --quiet "${everything[@]}" --no-run
    exit
fi
scratch=$(mktemp -d)
etcd_pid=
redis_pid=
clean_up() {
    for pid in $etcd_pid $redis_pid; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap clean_up EXIT

# Quiet unless something goes wrong.
quietly() {
    if ! "$@" >"$scratch/output" 2>&1; then
        cat "$scratch/output" >&2
        fail "failed: $*"
    fi
}

# Port and pid of an etcd of our own.
start_etcd() {
    local try port peer
    for try in 1 2 3 4 5; do
        port=$((15000 + RANDOM % 8000)) peer=$((23000 + RANDOM % 8000))
        rm -rf "$scratch/etcd"
        etcd --data-dir "$scratch/etcd" --name examples --initial-cluster "examples=http://127.0.0.1:$peer" \
            --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
            --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
            >"$scratch/etcd.log" 2>&1 &
        etcd_pid=$!
        local deadline=$((SECONDS + 20))
        while [ $SECONDS -lt $deadline ] && kill -0 "$etcd_pid" 2>/dev/null; do
            if ETCDCTL_API=3 etcdctl --endpoints="127.0.0.1:$port" --command-timeout=1s endpoint health >/dev/null 2>&1; then
                etcd_url=etcd://127.0.0.1:$port
                return
            fi
            sleep 0.1
        done
        kill -KILL "$etcd_pid" 2>/dev/null || true
    done
    cat "$scratch/etcd.log" >&2
    fail "etcd does not start"
}

say "tests, all features"
cargo test "${everything[@]}" --no-fail-fast

say "tests with other clients' locks"
cargo test --package leasehold-interop-tests --no-fail-fast

for server in "${redis_servers[@]}"; do
    say "tests on $("$server" --version)"
    export LEASEHOLD_REDIS_SERVER=$server
    cargo test "${everything[@]}" --no-fail-fast --lib backend::redis
    cargo test "${everything[@]}" --no-fail-fast --test on_redis
    cargo test "${everything[@]}" --no-fail-fast --test conformance --test servers redis
    LEASEHOLD_FAULTS=$(seq -s, 22 32) cargo test "${everything[@]}" --test faults each_fault
    cargo test --package leasehold-interop-tests --no-fail-fast
    unset LEASEHOLD_REDIS_SERVER
done

say "tests without features"
cargo test --no-fail-fast --lib --quiet

# A waker's vtable may have several copies in an optimized program: owners have to be known by any of them.
for profile in release thin fat; do
    say "owners in a program, profile $profile"
    cargo run --quiet --package leasehold-optimized --profile "$profile"
done

say "example quickstart, as the README has it"
quietly timeout 60 cargo run --quiet --example quickstart
everywhere=(blocking force_unlock cron_job leader_election semaphore progress fence_gate shutdown)
for example in lost_lock configured "${everywhere[@]}"; do
    say "example $example, in memory"
    quietly timeout 60 "$target/debug/examples/$example"
done

say "example web"
cargo test --package leasehold-web --quiet

say "examples on etcd"
quietly cargo build "${everything[@]}" --bins --examples
start_etcd
for example in quickstart etcd_compare "${everywhere[@]}"; do
    printf '%s\n' "$example"
    quietly timeout 60 "$target/debug/examples/$example" "$etcd_url"
done
printf 'configured\n'
quietly env SHOP_LOCKS_BACKEND=etcd SHOP_LOCKS_ENDPOINTS="${etcd_url#etcd://}" timeout 60 "$target/debug/examples/configured"
grep -q 'backend: "etcd"' "$scratch/output" || { cat "$scratch/output" >&2; fail "configured does not heed the environment"; }

# What its documentation says: revoke the lease by hand, and it says so at once.
printf 'lost_lock\n'
ETCDCTL="etcdctl --endpoints=${etcd_url#etcd://}"
export ETCDCTL_API=3
timeout 60 "$target/debug/examples/lost_lock" "$etcd_url" >"$scratch/lost_lock" 2>&1 &
holder=$!
lease=
for _ in $(seq 100); do
    lease=$($ETCDCTL get leasehold/job/ --prefix --keys-only | sed -n 's|^leasehold/job/\([0-9a-f]*\)-.*|\1|p')
    [ -n "$lease" ] && break
    sleep 0.1
done
[ -n "$lease" ] || { cat "$scratch/lost_lock" >&2; fail "lost_lock does not hold its lock"; }
$ETCDCTL lease revoke "$lease" >/dev/null
wait "$holder" || { cat "$scratch/lost_lock" >&2; fail "lost_lock failed"; }
grep -q Revoked "$scratch/lost_lock" || { cat "$scratch/lost_lock" >&2; fail "lost_lock did not tell its loss"; }

say "examples on Redis"
redis-server --port 0 --unixsocket "$scratch/redis" --save "" >"$scratch/redis.log" 2>&1 &
redis_pid=$!
for _ in $(seq 100); do
    [ "$(redis-cli -s "$scratch/redis" PING 2>/dev/null)" = PONG ] && break
    sleep 0.1
done
for example in quickstart redis_fence "${everywhere[@]}"; do
    printf '%s\n' "$example"
    quietly timeout 60 "$target/debug/examples/$example" "redis+unix://$scratch/redis"
done
printf 'configured\n'
quietly env SHOP_LOCKS_BACKEND=redis SHOP_LOCKS_SOCKET="$scratch/redis" timeout 60 "$target/debug/examples/configured"

say "all passed"
