#!/bin/sh
# Write .env for docker-compose with random secrets. An .env that exists is left alone.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
  echo ".env exists and is left as it is" >&2
  exit 0
fi
secret() { od -An -v -tx1 -N 32 /dev/urandom | tr -d " \n" | cut -c "1-$1"; }
umask 077
cat > .env.partial <<ENV
LABEL_STUDIO_USERNAME=admin@example.com
LABEL_STUDIO_PASSWORD=$(secret 32)
LABEL_STUDIO_API_KEY=$(secret 40)
POSTGRES_PASSWORD=$(secret 32)
REDIS_PASSWORD=$(secret 32)
USAM_AUTH_PASSWORD=$(secret 32)
ENV
mv .env.partial .env
echo "wrote .env: log in to Label Studio as admin@example.com with the LABEL_STUDIO_PASSWORD in it"
