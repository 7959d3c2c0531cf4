//! One connection with its prepared statements, and the transaction of one act.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::error::{ActError, Told, refusal_hint};
use super::ledger;
use super::values::{Text, fits, values};
use crate::action::act::{Act, ActKind};
use crate::action::receiver::Ended;
use crate::policy::database::{DatabaseConfig, Source, Statement};

/// A commit that is answered must hold; a database that answers before its disk has it is asked to wait.
const COMMITS_HOLD: &str = "SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// A connection, ready for acts.
pub(super) struct Session {
    client: Client,
    lock: tokio_postgres::Statement,
    enter: tokio_postgres::Statement,
    find: tokio_postgres::Statement,
    unmatch: tokio_postgres::Statement,
    block: tokio_postgres::Statement,
    unblock: tokio_postgres::Statement,
    _connection: AbortOnDropHandle<()>,
}

impl Session {
    /// Connects, makes the ledger where there is none, and prepares the statements.
    pub(super) async fn open(
        server: &tokio_postgres::Config,
        tls: Option<MakeRustlsConnect>,
        config: &DatabaseConfig,
    ) -> Result<Self, ActError> {
        let (client, connection) = connect(server, tls).await.map_err(|error| ActError::Connect((&error).into()))?;
        client.batch_execute(COMMITS_HOLD).await.map_err(|error| ActError::Connect((&error).into()))?;
        make_ledger(&client, config).await?;
        let ledger = &config.ledger;
        let prepare = async |sql: &str| match client.prepare(sql).await {
            Ok(statement) => Ok(statement),
            Err(error) => Err(not_a_ledger(config, &error)),
        };
        let lock = prepare(ledger::LOCK).await?;
        let enter = prepare(&ledger::enter(ledger)).await?;
        let find = prepare(&ledger::find(ledger)).await?;
        let unmatch = prepare(&ledger::unmatch(ledger)).await?;
        let block = prepare_checked(&client, "block", &config.block).await?;
        let unblock = prepare_checked(&client, "unblock", &config.unblock).await?;
        Ok(Self { client, lock, enter, find, unmatch, block, unblock, _connection: connection })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Ends a transaction that failed; false when the session is of no more use.
    pub(super) async fn roll_back(&self) -> bool {
        self.client.batch_execute("ROLLBACK").await.is_ok()
    }

    /// Whether this user may do what acts do. Nothing is run.
    pub(super) async fn check_rights(&self, config: &DatabaseConfig) -> Result<(), ActError> {
        let ledger = &config.ledger;
        let own = [(ledger::enter(ledger), 6), (ledger::find(ledger), 2), (ledger::unmatch(ledger), 2)];
        for (sql, parameters) in own {
            if let Some(told) = self.refusal(&sql, parameters).await? {
                let grant = ledger::grant(ledger);
                return Err(ActError::Mistake(format!(
                    "the ledger cannot be used: {told}; let its owner run: {grant}"
                )));
            }
        }
        for (what, statement, prepared) in
            [("block", &config.block, &self.block), ("unblock", &config.unblock, &self.unblock)]
        {
            if let Some(told) = self.refusal(&statement.sql, prepared.params().len()).await? {
                let hint = refusal_hint(&told);
                return Err(ActError::Mistake(format!("the database refuses '{what}': {told}{hint}")));
            }
        }
        Ok(())
    }

    /// The want of a right that keeps this user from running `sql`. What the server cannot explain is left to the run.
    async fn refusal(&self, sql: &str, parameters: usize) -> Result<Option<Told>, ActError> {
        let nulls = vec![Text(None); parameters];
        match self.client.query(&format!("EXPLAIN {sql}"), &by_reference(&nulls)).await {
            Ok(_) => Ok(None),
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(Some((&error).into())),
            Err(error) if error.is_closed() => Err(ActError::Session((&error).into())),
            Err(_) => Ok(None),
        }
    }

    /// Does `act` in one transaction with its line in the ledger, or finds that it is done. After an error the
    /// transaction is still open.
    pub(super) async fn perform(&self, act: &Act, action: &str, config: &DatabaseConfig) -> Result<Ended, ActError> {
        let (what, statement, prepared) = match act.kind {
            ActKind::Block | ActKind::ManualBlock => ("block", &config.block, &self.block),
            ActKind::Unblock => ("unblock", &config.unblock, &self.unblock),
        };
        let mut values = values(act, action, &statement.parameters, &config.key)?;
        values.truncate(prepared.params().len());
        match self.enter(act, action).await?.as_deref() {
            None => return self.answer_as_before(act, action, what).await,
            Some("superseded") => {
                self.commit(what).await?;
                return Ok(superseded(act.kind));
            }
            Some(_) => {}
        }
        let rows = self.client.execute(prepared, &by_reference(&values)).await;
        let rows = rows.map_err(|error| ActError::of(what, &error))?;
        if rows > config.rows_max {
            return Err(ActError::TooManyRows { what, rows, rows_max: config.rows_max });
        }
        if rows > 0 {
            self.commit(what).await?;
            return Ok(Ended::Done(format!("{what}: {rows} rows changed")));
        }
        if act.kind == ActKind::Unblock {
            let at = identity(act, action);
            self.client
                .execute(&self.unmatch, &by_reference(&at))
                .await
                .map_err(|error| ActError::of_ledger(&error))?;
            self.commit(what).await?;
        }
        Err(ActError::NoRow { what })
    }

    /// Begins, locks the account and enters the act, in one round trip.
    async fn enter(&self, act: &Act, action: &str) -> Result<Option<String>, ActError> {
        let text = |text: &str| Text(Some(text.to_owned()));
        let account = [Text(Some(format!("interdict {}:{}", act.target.entity, act.target.key)))];
        let [id, action] = identity(act, action);
        let line = [
            id,
            action,
            text(&act.target.entity),
            text(&act.target.key),
            text(act.kind.name()),
            Text(Some(act.decided_at.to_string())),
        ];
        let (account, line) = (by_reference(&account), by_reference(&line));
        // Requests go out in the order in which they are first polled.
        let (_, _, entered) = tokio::try_join!(
            biased;
            self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
            self.client.execute(&self.lock, &account),
            self.client.query_opt(&self.enter, &line),
        )
        .map_err(|error| ActError::of_ledger(&error))?;
        entered.map(|row| row.try_get(0)).transpose().map_err(|error| ActError::of_ledger(&error))
    }

    /// What came of an act that an earlier try did.
    async fn answer_as_before(&self, act: &Act, action: &str, what: &'static str) -> Result<Ended, ActError> {
        let at = identity(act, action);
        let found = self.client.query_one(&self.find, &by_reference(&at)).await;
        let read = found.and_then(|row| Ok((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?)));
        let (outcome, at) = read.map_err(|error| ActError::of_ledger(&error))?;
        self.commit(what).await?;
        match outcome.as_str() {
            "superseded" => Ok(superseded(act.kind)),
            "unmatched" => Err(ActError::NoRow { what }),
            _ => Ok(Ended::Done(format!("{what}: the ledger has it, done at {at}"))),
        }
    }

    async fn commit(&self, what: &'static str) -> Result<(), ActError> {
        self.client.batch_execute("COMMIT").await.map_err(|error| ActError::of(what, &error))
    }
}

fn superseded(kind: ActKind) -> Ended {
    Ended::Superseded(match kind {
        ActKind::Block | ActKind::ManualBlock => "the account was unblocked after this was decided".to_owned(),
        ActKind::Unblock => "the account was blocked anew after this was decided".to_owned(),
    })
}

/// Id and action: what the ledger knows an act by.
fn identity(act: &Act, action: &str) -> [Text; 2] {
    [Text(Some(act.id.to_string())), Text(Some(action.to_owned()))]
}

fn by_reference(values: &[Text]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

async fn connect(
    server: &tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<(Client, AbortOnDropHandle<()>), tokio_postgres::Error> {
    // How a connection ended is told by the request that it failed.
    match tls {
        Some(tls) => {
            let (client, connection) = server.connect(tls).await?;
            Ok((client, AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }))))
        }
        None => {
            let (client, connection) = server.connect(NoTls).await?;
            Ok((client, AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }))))
        }
    }
}

/// Makes the ledger where there is none. Sessions that meet here go one after the other.
async fn make_ledger(client: &Client, config: &DatabaseConfig) -> Result<(), ActError> {
    let name = [Text(Some(config.ledger.to_string()))];
    let found = client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &by_reference(&name)).await;
    let is_there = found.and_then(|row| row.try_get::<_, bool>(0)).map_err(|error| ActError::of_ledger(&error))?;
    if is_there {
        return Ok(());
    }
    let ddl = ledger::ddl(&config.ledger);
    let make = format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('interdict ledger', 0)); {ddl} COMMIT");
    match client.batch_execute(&make).await {
        Ok(()) => {
            tracing::info!(ledger = %config.ledger, "the ledger was made");
            Ok(())
        }
        Err(error) => match ActError::of("the ledger", &error) {
            ActError::Refused { told, .. } => {
                let ddl = format!("{ddl}\n{}", ledger::grant(&config.ledger));
                Err(ActError::NoLedger { told, ddl })
            }
            other => Err(other),
        },
    }
}

fn not_a_ledger(config: &DatabaseConfig, error: &tokio_postgres::Error) -> ActError {
    match ActError::of_ledger(error) {
        ActError::Refused { told, .. } => ActError::Mistake(format!(
            "{} is no ledger of this version ({told}); name another table in 'ledger', or let its owner put it right:\n{}",
            config.ledger,
            ledger::ddl(&config.ledger)
        )),
        other => other,
    }
}

/// Prepares a configured statement and compares its parameters with what they will be given.
async fn prepare_checked(
    client: &Client,
    what: &'static str,
    statement: &Statement,
) -> Result<tokio_postgres::Statement, ActError> {
    let prepared = client.prepare(&statement.sql).await.map_err(|error| ActError::of(what, &error))?;
    let wanted = prepared.params();
    let given = &statement.parameters;
    let mistake = |text: String| Err(ActError::Mistake(text));
    if wanted.len() > given.len() {
        let (last, count) = (wanted.len(), given.len());
        return mistake(format!(
            "'{what}' has a parameter ${last}, and {what}_parameters names {count}; name what it is to be given"
        ));
    }
    for (at, parameter) in given.iter().enumerate() {
        let number = at + 1;
        let name = &parameter.name;
        match wanted.get(at) {
            Some(wanted) if !fits(parameter.kind, wanted) => {
                return mistake(format!(
                    "'{what}' takes ${number} as {wanted}, and {name} is {}; correct the column's declared type, or cast it, such as ${number}::text",
                    parameter.kind
                ));
            }
            None if matches!(parameter.source, Source::Key(_)) => {
                return mistake(format!(
                    "'{what}' does not use ${number}, the account's {name}: it would change every row; add WHERE ... = ${number}"
                ));
            }
            _ => {}
        }
    }
    Ok(prepared)
}
