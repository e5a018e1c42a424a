#!/bin/sh
# All that the containers cannot make again, in one file and back:
#     sh infra/backup.sh save FILE.tar.gz        while everything runs, or nothing does
#     sh infra/backup.sh restore FILE.tar.gz     stops the stack, replaces its state, starts it again
set -eu
umask 077 # it holds your users' requests
usage() { echo "backup: say: $0 save|restore FILE.tar.gz" >&2; exit 2; }
[ $# = 2 ] || usage
case $2 in *.tar.gz) ;; *) usage ;; esac
folder=$(cd "$(dirname "$2")" && pwd)
file=$folder/$(basename "$2")
cd "$(dirname "$0")"
work=$(mktemp -d "$folder/.crossfade-XXXXXX")
trap 'rm -rf "$work" "$work.draft"' EXIT

# Each service sees its volume at its own place, whether or not it runs.
inside() { service=$1; shift; docker compose run --rm --no-deps -T "$service" "$@"; }
postgres() { docker compose exec -T postgres "$@"; }

# The log grows while it is read, and a day's file may just be packed: tar says so by 1, and what it read is good.
pack() { inside "$1" sh -c "tar -C $2 --warning=no-file-changed -cf - .; [ \$? -le 1 ]" >"$work/$3"; }

unpack() { inside "$1" sh -c "find $2 -mindepth 1 -delete && tar -C $2 -xf -" <"$work/$3"; }

save() {
    docker compose up --detach --wait postgres
    # The log before the registry: every version that a row names is in it. The audit before the registry too: a move that
    # it only announces is looked up there. Artifacts last: the registry names them.
    pack router /usr/src/app/logs router.tar
    pack airflow-scheduler /opt/airflow/logs reports.tar
    postgres psql -U postgres -Atc "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'" \
        >"$work/databases"
    while read -r name; do
        postgres pg_dump -U postgres --format=custom "$name" >"$work/$name.dump" </dev/null
    done <"$work/databases"
    pack mlflow /mlflow/artifacts artifacts.tar
    (cd "$work" && sha256sum ./* >.sums && mv .sums SHA256SUMS)
    tar -C "$work" -czf "$work.draft" . && mv "$work.draft" "$file"
    echo "backup: $file ($(wc -c <"$file") bytes)"
}

restore() {
    tar -C "$work" -xzf "$file"
    (cd "$work" && sha256sum --quiet --check SHA256SUMS) || { echo "backup: $file is damaged; nothing was changed" >&2; exit 1; }
    docker compose --profile '*' down
    docker compose up --detach --wait postgres
    while read -r name; do # a database belongs to the user of its name (postgres-init.sh)
        postgres dropdb -U postgres --if-exists --force "$name" </dev/null
        postgres createdb -U postgres --owner "$name" "$name" </dev/null
        postgres pg_restore -U postgres --exit-on-error --dbname "$name" <"$work/$name.dump"
    done <"$work/databases"
    unpack router /usr/src/app/logs router.tar
    unpack airflow-scheduler /opt/airflow/logs reports.tar
    unpack mlflow /mlflow/artifacts artifacts.tar
    docker compose up --detach --wait
    echo "backup: the containers are as they were when $file was made"
}

case $1 in save) save ;; restore) restore ;; *) usage ;; esac
