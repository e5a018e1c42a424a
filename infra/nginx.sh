#!/bin/sh
# Starts nginx in front of the routers, and has it look again when one of them has got another address: what nginx
# resolves itself it resolves once, at its start.
#   ROUTERS                host:port of each, with spaces between them
#   ROUTER_MAX_BODY_BYTES  as the routers have it
#   LISTEN                 port, or address:port; default 8080
#   RUN                    folder that can be written; default /tmp/nginx
set -eu
: "${ROUTERS:?}" "${ROUTER_MAX_BODY_BYTES:?}" "${LISTEN:=8080}" "${RUN:=/tmp/nginx}"
mkdir -p "$RUN"
cp "$(dirname "$0")/nginx.conf" "$RUN/nginx.conf"
printf 'listen %s;\nclient_max_body_size %s;\n' "$LISTEN" "$ROUTER_MAX_BODY_BYTES" >"$RUN/listen.conf"

# One line per router; a name that is unknown for now, because its container is being restarted, keeps its address.
# A router gets nothing for a second after three failures, not after one: with both of them out nginx asks nobody.
addresses() {
    for router in $ROUTERS; do
        found=$(getent ahostsv4 "${router%:*}") && printf '%s' "${found%% *}" >"$RUN/address-of-$router"
        [ -e "$RUN/address-of-$router" ] || continue
        printf 'server %s:%s max_fails=3 fail_timeout=1s;\n' "$(cat "$RUN/address-of-$router")" "${router##*:}"
    done
}

until addresses >"$RUN/routers.conf" && [ -s "$RUN/routers.conf" ]; do
    echo "nginx.sh: none of $ROUTERS is known yet"
    sleep 1
done
nginx -p "$RUN" -c "$RUN/nginx.conf" -e stderr -g 'daemon off;' &
nginx=$!
trap 'kill -QUIT "$nginx"; wait "$nginx"; exit' TERM INT
while kill -0 "$nginx" 2>/dev/null; do
    sleep 2 &
    wait $! # not the sleep itself: a signal has to come through
    addresses >"$RUN/routers.new" || true
    cmp -s "$RUN/routers.new" "$RUN/routers.conf" && continue
    mv "$RUN/routers.new" "$RUN/routers.conf"
    kill -HUP "$nginx"
done
wait "$nginx"
