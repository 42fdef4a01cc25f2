# Shared by the scripts beside it; sourced, not run. Plain bash (3.2 and later, as macOS has it).
#
# A private Postgres and a private Redis live below $RUN_DIR, for one checkout, on ports of their own.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
RUN_DIR=${RUN_DIR:-$ROOT/.run}

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$(basename "$0"): $*"
  exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# ── What has to be installed ──────────────────────────────────────────────────────────────────────

# The newest PostgreSQL's programs: Debian keeps initdb and pg_ctl out of the PATH.
postgres_bin() {
  local newest
  newest=$(find /usr/lib/postgresql -maxdepth 2 -name bin -type d 2>/dev/null | sort -V | tail -n 1)
  if [ -n "$newest" ] && [ -x "$newest/initdb" ]; then
    printf '%s\n' "$newest"
  elif command -v initdb >/dev/null 2>&1; then
    dirname "$(command -v initdb)"
  elif command -v brew >/dev/null 2>&1 && [ -x "$(brew --prefix postgresql@16 2>/dev/null)/bin/initdb" ]; then
    printf '%s\n' "$(brew --prefix postgresql@16)/bin"
  else
    return 1
  fi
}

# Prints the packages that are missing, by their Debian names.
missing_packages() {
  if [ "${1:-}" = with-servers ]; then
    postgres_bin >/dev/null || echo postgresql
    command -v redis-server >/dev/null 2>&1 || echo redis-server
  fi
  command -v git >/dev/null 2>&1 || echo git
  command -v cc >/dev/null 2>&1 || echo build-essential
  command -v cmake >/dev/null 2>&1 || echo cmake
  if [ "$(uname)" = Linux ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ -e /etc/debian_version ]; then
    echo ca-certificates
  fi
  return 0
}

# Installs what is missing from the system's own packages. $1: with-servers, unless both are elsewhere.
install_missing() {
  local missing as_root=""
  missing=$(missing_packages "${1:-}" | tr '\n' ' ')
  [ -n "${missing// /}" ] || return 0
  say "installing: $missing"
  if command -v apt-get >/dev/null 2>&1; then
    if ! is_root; then
      command -v sudo >/dev/null 2>&1 || die "please install (as root): apt-get install $missing"
      as_root=sudo
    fi
    # shellcheck disable=SC2086 # words on purpose: a list of packages
    { $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing; } >&2 ||
      die "cannot install $missing"
  elif command -v brew >/dev/null 2>&1; then
    missing=${missing/postgresql /postgresql@16 }
    missing=${missing/redis-server /redis }
    missing=${missing/build-essential /}
    # shellcheck disable=SC2086
    brew install $missing >&2 || die "cannot install $missing"
  else
    die "please install: $missing"
  fi
}

need_cargo() {
  command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
  command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust 1.95 or later from https://rustup.rs"
}

# What every fail point writes when it acts: only what was built with them has this in it.
FAIL_POINT="fail point fired: "

# Refuses binaries that could be made to fail on purpose.
without_fail_points() {
  local binary
  for binary in "$@"; do
    if grep -q "$FAIL_POINT" "$binary"; then die "$binary has fail points that nobody asked for"; fi
  done
}

# ── Processes and ports ───────────────────────────────────────────────────────────────────────────

# A process that has ended, but whose parent has not looked yet, still has its number.
is_alive() {
  [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}

pid_of() { cat "$RUN_DIR/$1.pid" 2>/dev/null || true; }

# A small Debian has no ps, macOS has no /proc.
command_of() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null || ps -o command= -p "$1" 2>/dev/null || true; }

# A pid file may be older than the machine's last start: a process counts only if it is the program it should be.
runs() {
  local pid
  pid=$(pid_of "$1")
  is_alive "$pid" || return 1
  case $(command_of "$pid") in *"$2"*) return 0 ;; *) return 1 ;; esac
}

is_listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first free port from $1 up. Callers begin below 32768: from there on the system hands ports to clients, and one
# that is in use so cannot be listened on.
free_port() {
  local port=$1
  while is_listening "$port"; do port=$((port + 1)); done
  printf '%s\n' "$port"
}

# Waits until the process is gone; after $2 seconds it is killed.
stop_pid() {
  local pid=$1 rounds=$(($2 * 10))
  is_alive "$pid" || return 0
  kill -TERM "$pid" 2>/dev/null || true
  # A stopped process cannot act on SIGTERM until it is continued.
  kill -CONT "$pid" 2>/dev/null || true
  while is_alive "$pid"; do
    rounds=$((rounds - 1))
    if [ "$rounds" -le 0 ]; then
      kill -KILL "$pid" 2>/dev/null || true
      return 0
    fi
    sleep 0.1
  done
}

# ── Postgres ──────────────────────────────────────────────────────────────────────────────────────

# Postgres refuses to run as root: then it runs as the system's user `postgres`.
as_postgres() {
  if is_root; then
    (cd / && runuser -u postgres -- "$@")
  else
    "$@"
  fi
}

# Where the cluster lives: below $RUN_DIR, unless the user `postgres` may not go there.
postgres_home() {
  local home=$RUN_DIR/postgres
  if is_root && ! as_postgres test -x "$RUN_DIR" 2>/dev/null; then
    home=/var/tmp/unified-wallet-$(printf '%s' "$RUN_DIR" | cksum | cut -d ' ' -f 1)
  fi
  printf '%s\n' "$home"
}

# Starts the private Postgres, made on first use, and prints its URL. Arguments: settings, as name=value.
start_postgres() {
  local bin home port setting
  bin=$(postgres_bin) || die "PostgreSQL is not installed"
  mkdir -p "$RUN_DIR"
  home=$(postgres_home)
  mkdir -p "$home"
  if is_root; then chown postgres "$home"; fi
  chmod 700 "$home"
  if [ ! -s "$home/data/PG_VERSION" ]; then
    # What is in it, not itself: it may be a link to a disk of its own.
    find "$home/data/" -mindepth 1 -delete 2>/dev/null || true
    (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$home/password")
    if is_root; then chown postgres "$home/password"; fi
    as_postgres "$bin/initdb" -D "$home/data" -U postgres --pwfile="$home/password" --auth=scram-sha-256 \
      -E UTF8 --locale=C >"$RUN_DIR/initdb.log" 2>&1 || die "initdb failed, see $RUN_DIR/initdb.log"
  fi
  if ! as_postgres "$bin/pg_ctl" -D "$home/data" status >/dev/null 2>&1; then
    port=$(free_port "${POSTGRES_PORT:-15432}")
    printf '%s\n' "$port" >"$home/port"
    {
      printf '%s\n' "listen_addresses = '127.0.0.1'" "port = $port" "unix_socket_directories = ''" \
        "shared_buffers = '256MB'" "min_wal_size = '512MB'" "max_wal_size = '2GB'"
      for setting in max_connections=300 "$@"; do printf '%s\n' "$setting"; done
    } >"$home/settings.conf"
    if is_root; then chown postgres "$home/settings.conf"; fi
    grep -q settings.conf "$home/data/postgresql.conf" ||
      printf "include '%s'\n" "$home/settings.conf" >>"$home/data/postgresql.conf"
    as_postgres "$bin/pg_ctl" -D "$home/data" -l "$home/log" -w start >/dev/null ||
      die "Postgres did not start, see $home/log"
  fi
  head -n 1 "$home/data/postmaster.pid" >"$RUN_DIR/postgres.pid"
  printf 'postgres://postgres:%s@127.0.0.1:%s/postgres\n' "$(cat "$home/password")" "$(cat "$home/port")"
}

stop_postgres() {
  local bin home
  home=$(postgres_home)
  if [ -s "$home/data/PG_VERSION" ] && bin=$(postgres_bin); then
    # A frozen postmaster cannot stop.
    kill -CONT "$(pid_of postgres)" 2>/dev/null || true
    as_postgres "$bin/pg_ctl" -D "$home/data" -m fast -w stop >/dev/null 2>&1 || true
  fi
  rm -f "$RUN_DIR/postgres.pid"
}

# ── Redis ─────────────────────────────────────────────────────────────────────────────────────────

# Starts the private Redis and prints its URL. It keeps nothing: what is in Redis may be lost.
start_redis() {
  local port
  if ! runs redis redis-server; then
    mkdir -p "$RUN_DIR/redis" "$RUN_DIR/logs"
    port=$(free_port "${REDIS_PORT:-16379}")
    printf '%s\n' "$port" >"$RUN_DIR/redis/port"
    nohup redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$RUN_DIR/redis" \
      >"$RUN_DIR/logs/redis.log" 2>&1 </dev/null &
    printf '%s\n' $! >"$RUN_DIR/redis.pid"
    while ! is_listening "$port"; do
      is_alive "$(pid_of redis)" || die "Redis did not start, see $RUN_DIR/logs/redis.log"
      sleep 0.1
    done
  fi
  printf 'redis://127.0.0.1:%s\n' "$(cat "$RUN_DIR/redis/port")"
}

stop_redis() {
  if runs redis redis-server; then stop_pid "$(pid_of redis)" 5; fi
  rm -f "$RUN_DIR/redis.pid"
}
