#!/bin/sh
# Run by the database's image once, after schema.sql: the role that captures and blocks, with no more rights than that takes.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$(cat "${INTERDICT_PASSWORD_FILE:-/run/secrets/interdict_password}")" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE interdict LOGIN REPLICATION PASSWORD :'password';
GRANT SELECT ON transactions, chargebacks TO interdict;
GRANT SELECT, UPDATE ON accounts TO interdict;
GRANT CREATE ON SCHEMA public TO interdict;  -- the ledger of blocks
CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks WITH (publish_via_partition_root = true);
SQL
