#!/bin/sh
# Makes .venv: Python 3.11 and every package of requirements.txt, checked against its hash.
# Needs python3; brings uv itself. What only a system package gives is installed as root, or said in one line.
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=0.13.8

missing=
# LightGBM links against OpenMP, which no Python package brings.
python3 -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing="$missing libgomp1"
command -v uv >/dev/null || [ -x .cache/uv/bin/uv ] \
    || python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
# Spark needs Java 17 or newer; without it everything but ENGINE=spark works, and the tests of Spark are skipped.
JAVA="${JAVA_HOME:+$JAVA_HOME/bin/}java"
"$JAVA" -version 2>&1 | grep -Eq 'version "(1[7-9]|[2-9][0-9])' || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        missing="$missing default-jre-headless"
    else
        echo "setup: no Java 17 or newer; for ENGINE=spark run: sudo apt-get install -y default-jre-headless"
    fi
}
# The log in PostgreSQL is tested on a server of the tests' own; without one these tests are skipped.
no_cluster=
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        missing="$missing postgresql"
        no_cluster=/etc/postgresql-common/createcluster.d/crossfade.conf # the package would make and start one
        mkdir -p "$(dirname "$no_cluster")"
        echo "create_main_cluster = false" >"$no_cluster"
    else
        echo "setup: no PostgreSQL; to test the log in one run: sudo apt-get install -y postgresql"
    fi
}
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing$missing"
        # shellcheck disable=SC2086 # a list of packages
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
        [ -z "$no_cluster" ] || rm -f "$no_cluster"
    else
        echo "setup: please run: sudo apt-get install -y$missing   and then this again" >&2
        exit 1
    fi
fi

if command -v uv >/dev/null; then
    UV=uv
else
    UV=.cache/uv/bin/uv
    if [ ! -x "$UV" ]; then
        echo "setup: installing uv"
        python3 -m venv .cache/uv
        .cache/uv/bin/pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
fi

echo "setup: installing packages into .venv"
[ -x .venv/bin/python ] || "$UV" venv --quiet --python 3.11 .venv || {
    echo "setup: no Python 3.11 found, and none could be fetched; please install python3.11 and run this again" >&2
    exit 1
}
"$UV" pip sync --quiet --require-hashes requirements.txt --python .venv/bin/python
"$UV" pip install --quiet --no-deps --no-build-isolation --editable . --python .venv/bin/python
echo "setup: done"
