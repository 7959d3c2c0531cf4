-- What a payment company's database might look like, as far as Interdict sees it.
-- `interdict simulate --to URL --create` runs this file; running it again changes nothing.

CREATE TABLE IF NOT EXISTS accounts (
    customer_id bigint PRIMARY KEY,
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'blocked')),
    blocked_at  timestamptz,
    blocked_by  uuid,
    blocked_for text
);

CREATE TABLE IF NOT EXISTS transactions (
    transaction_id bigint PRIMARY KEY,
    tx_datetime    timestamptz NOT NULL,
    customer_id    bigint NOT NULL REFERENCES accounts,
    terminal_id    bigint NOT NULL,
    amount         numeric(12, 2) NOT NULL,
    is_fraud       boolean
);

-- A chargeback knows its transaction by its id alone, and may come before it.
CREATE TABLE IF NOT EXISTS chargebacks (
    transaction_id bigint PRIMARY KEY,
    is_fraud       boolean NOT NULL,
    reported_at    timestamptz NOT NULL
);
