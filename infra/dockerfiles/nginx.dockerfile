# nginx as Debian has it, on the base of the other images. Its configuration is mounted.
FROM debian:bookworm-slim

# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends nginx && rm -rf /var/lib/apt/lists/*

USER www-data
CMD ["sh", "/etc/crossfade/nginx.sh"]
