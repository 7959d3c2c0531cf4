//! The SQL of the ledger.

use crate::policy::database::Ledger;

/// What is run to make the ledger.
pub(super) fn ddl(ledger: &Ledger) -> String {
    let index = ledger.index();
    format!(
        "CREATE TABLE IF NOT EXISTS {ledger} (\n  \
           decision_id uuid NOT NULL,\n  \
           action text NOT NULL,\n  \
           entity text NOT NULL,\n  \
           entity_key text NOT NULL,\n  \
           kind text NOT NULL,\n  \
           decided_at timestamptz NOT NULL,\n  \
           outcome text NOT NULL,\n  \
           at timestamptz NOT NULL DEFAULT clock_timestamp(),\n  \
           PRIMARY KEY (decision_id, action)\n\
         );\n\
         CREATE INDEX IF NOT EXISTS {index} ON {ledger} (entity, entity_key, decided_at);"
    )
}

/// What gives the right to use a ledger that somebody else made; `USER` is for a person to fill in.
pub(super) fn grant(ledger: &Ledger) -> String {
    format!("GRANT SELECT, INSERT, UPDATE ON {ledger} TO USER;")
}

/// Takes the lock of an account ($1) until the transaction ends, so that what is seen of it afterwards holds.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))";

/// Enters an act; answers its outcome, or nothing where it is there already. Of two acts of one instant the unblocking
/// counts as the later one. What another action did to the account is no matter of this one's: it has statements of its own.
pub(super) fn enter(ledger: &Ledger) -> String {
    format!(
        "INSERT INTO {ledger} (decision_id, action, entity, entity_key, kind, decided_at, outcome) \
         SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::timestamptz, \
           CASE WHEN EXISTS ( \
             SELECT FROM {ledger} AS other \
             WHERE other.entity = $3::text AND other.entity_key = $4::text AND other.action = $2::text \
               AND (other.kind = 'unblock') <> ($5::text = 'unblock') \
               AND (other.decided_at > $6::timestamptz \
                 OR (other.decided_at = $6::timestamptz AND other.kind = 'unblock'))) \
           THEN 'superseded' ELSE 'done' END \
         ON CONFLICT (decision_id, action) DO NOTHING RETURNING outcome"
    )
}

/// The outcome and the instant of an act that is there.
pub(super) fn find(ledger: &Ledger) -> String {
    format!("SELECT outcome, at::text FROM {ledger} WHERE decision_id = $1::uuid AND action = $2::text")
}

/// Notes that an unblocking changed no row.
pub(super) fn unmatch(ledger: &Ledger) -> String {
    format!("UPDATE {ledger} SET outcome = 'unmatched' WHERE decision_id = $1::uuid AND action = $2::text")
}
