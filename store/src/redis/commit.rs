//! Commits: sent, and sent again under the same token until their outcome is known.
//!
//! Invariant: a commit that may have been made and was not answered stays in doubt, whatever is said afterwards; only
//! made again under its own token is it known.

use bytes::Bytes;
use redis::{Pipeline, Value};

use super::encode::{self, Body};
use super::failure::DatabaseError;
use super::ledger::Flight;
use super::link::Lane;
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;
use crate::port::{ClaimOutcome, Commit, Committed, Durability, LogName};

/// A commit that stands in the database.
struct Made {
    /// Its number.
    sequence: u64,
    /// Per claim its position or the record that was there, or -1 for one when the answer is told again.
    claims: Vec<Value>,
    /// Per log its first position.
    starts: Vec<Value>,
    /// Replicas that have it, if that was asked.
    replicas: Option<i64>,
    /// The server that made it.
    address: String,
}

/// Why there is no commit.
struct Unmade {
    error: StoreError,
    /// Whether it was sent and may stand in the database all the same.
    is_open: bool,
}

impl RedisStore {
    /// [`crate::port::Store::commit`].
    pub(super) async fn commit_all(&self, commit: &Commit) -> Result<Committed, StoreError> {
        let body = encode::body(&self.layout, commit)?;
        let flight = self.ledger.begin(&body);
        let wanted = if commit.durability == Durability::Power { self.link.config().replicas } else { 0 };
        let made = match self.make(commit, &body, &flight, wanted).await {
            Ok(made) => made,
            Err(Unmade { error, is_open: true }) => return Err(error),
            Err(Unmade { error, is_open: false }) => {
                flight.refused();
                return Err(error);
            }
        };
        let confirmed = made.replicas.unwrap_or(0);
        if confirmed < i64::from(wanted) {
            // Left in doubt: made again, it is confirmed and not made twice.
            return Err(DatabaseError::Unconfirmed { address: made.address, confirmed, wanted }.into());
        }
        let claims = self.claims_told(commit, made.claims).await?;
        flight.landed(made.sequence);
        Ok(Committed { claims, appended: positions(commit, &made.starts)? })
    }

    async fn make(&self, commit: &Commit, body: &Body, flight: &Flight<'_>, wanted: u32) -> Result<Made, Unmade> {
        let mut patience = self.link.patience();
        let mut is_open = flight.was_in_doubt();
        loop {
            let unmade = |error: DatabaseError| Unmade { error: error.into(), is_open };
            let session = self.link.session(&mut patience).await.map_err(unmade)?;
            let question = self.question(body, flight, wanted);
            match session.ask(Lane::Write, &question).await {
                Ok(answers) => {
                    // Where it does not stand now it never will: stamps and offsets do not come back.
                    let is_settled =
                        |error: &StoreError| matches!(error, StoreError::Conflict | StoreError::Fenced { .. });
                    let made = verdict(commit, &session.address, answers);
                    return made.map_err(|error| Unmade { is_open: is_open && !is_settled(&error), error });
                }
                Err(error) => {
                    let is_worth_another = error.is_worth_another();
                    is_open |= matches!(error, DatabaseError::Unreachable { .. } | DatabaseError::Demoted { .. });
                    if is_worth_another {
                        self.link.abandon(&session);
                    }
                    if !is_worth_another || !patience.has_time().await {
                        return Err(Unmade { error: error.into(), is_open });
                    }
                }
            }
        }
    }

    fn question(&self, body: &Body, flight: &Flight<'_>, wanted: u32) -> Pipeline {
        let layout = &self.layout;
        let keys = [
            layout.meta(),
            layout.offsets(),
            layout.writer(self.ledger.writer()),
            layout.lists(),
            layout.intents(),
            layout.outbox(),
            layout.log(LogName::DECISIONS),
            layout.work(),
            layout.unblocks(),
        ];
        let (words, bytes) = body.size();
        let mut command = redis::Cmd::with_capacity(words + 16, bytes + 1024);
        scripts::COMMIT.call(layout, &mut command, &keys);
        let standing = flight.standing();
        command.arg(standing.token).arg(standing.turn).arg(standing.low).arg(standing.kept).arg(standing.known);
        command.arg(self.link.config().outbox_capacity);
        command.arg(body.oldest().map(|day| day.to_string()).unwrap_or_default());
        command.arg(self.link.config().work_capacity);
        let keep = self.link.config().decisions_keep;
        command.arg(keep.map(|keep| keep.as_millis().to_string()).unwrap_or_default());
        for word in body.words() {
            command.arg(word);
        }
        let mut question = Pipeline::with_capacity(2);
        question.add_command(command);
        if wanted > 0 {
            let patience_ms = self.link.config().replica_timeout.as_millis().max(1);
            question.cmd("WAIT").arg(wanted).arg(u64::try_from(patience_ms).unwrap_or(u64::MAX));
        }
        question
    }

    /// What became of the claims. The server remembers of an answer that it gives again which claims came second, and
    /// not by what: the record stands under the id.
    async fn claims_told(&self, commit: &Commit, claims: Vec<Value>) -> Result<Vec<ClaimOutcome>, StoreError> {
        let mut question = redis::pipe();
        for (claim, outcome) in commit.claims.iter().zip(&claims) {
            if *outcome == Value::Int(-1) {
                question.cmd("GET").arg(self.layout.decision(claim.id));
            }
        }
        let records = if question.is_empty() { Vec::new() } else { self.link.ask(Lane::Read, &question).await? };
        let mut records = records.into_iter();
        let told = claims.into_iter().map(|outcome| {
            let record = match outcome {
                Value::Int(-1) => records.next().ok_or_else(|| answer::odd("claim"))?,
                Value::Int(_) => return Ok(ClaimOutcome::Claimed { position: answer::position("claim", &outcome)? }),
                record => record,
            };
            Ok(ClaimOutcome::Existing(Bytes::from(answer::some_bytes("decision record", record)?)))
        });
        told.collect()
    }
}

/// Reads what the script said.
fn verdict(commit: &Commit, address: &str, answers: Vec<Value>) -> Result<Made, StoreError> {
    const WHAT: &str = "answer to a commit";
    let replicas = answers.get(1).map(|count| answer::number(WHAT, count)).transpose()?;
    let mut words = answer::list(WHAT, answer::only(WHAT, answers)?)?.into_iter();
    let mut next = || words.next().ok_or_else(|| answer::odd(WHAT));
    match answer::some_bytes(WHAT, next()?)?.as_slice() {
        b"done" | b"again" => Ok(Made {
            sequence: answer::position(WHAT, &next()?)?,
            claims: answer::list(WHAT, next()?)?,
            starts: answer::list(WHAT, next()?)?,
            replicas,
            address: address.to_owned(),
        }),
        b"fenced" => {
            let at = answer::position(WHAT, &next()?)?;
            let stored = answer::some_bytes(WHAT, next()?)?;
            let wanted = usize::try_from(at).ok().and_then(|at| commit.offsets.get(at.checked_sub(1)?));
            let wanted = wanted.ok_or_else(|| answer::odd(WHAT))?;
            let stored = if stored.is_empty() { None } else { Some(layout::number("offset", &stored)?) };
            let (source_name, partition, expected) = (wanted.source.clone(), wanted.partition, wanted.from);
            Err(StoreError::Fenced { source_name, partition, stored, expected })
        }
        b"full" => {
            let capacity = answer::position(WHAT, &next()?)?;
            Err(StoreError::OutboxFull { capacity: usize::try_from(capacity).unwrap_or(usize::MAX) })
        }
        b"conflict" => Err(StoreError::Conflict),
        b"work_full" => {
            let capacity = answer::position(WHAT, &next()?)?;
            Err(StoreError::WorkFull { capacity: usize::try_from(capacity).unwrap_or(usize::MAX) })
        }
        b"rewound" => {
            let stored = answer::position(WHAT, &next()?)?;
            let expected = answer::position(WHAT, &next()?)?;
            Err(DatabaseError::Rewound { stored, expected }.into())
        }
        _ => Err(answer::odd(WHAT)),
    }
}

/// Per append its position: those of one log follow each other.
fn positions(commit: &Commit, starts: &[Value]) -> Result<Vec<u64>, StoreError> {
    let logs = encode::logs(&commit.appends);
    let mut nexts = Vec::with_capacity(logs.len());
    for (log, start) in logs.into_iter().zip(starts) {
        nexts.push((log, answer::position("log position", start)?));
    }
    let positions = commit.appends.iter().map(|append| {
        let (_, next) = nexts.iter_mut().find(|(log, _)| *log == append.log)?;
        *next += 1;
        Some(*next - 1)
    });
    positions.collect::<Option<_>>().ok_or_else(|| answer::odd("log position"))
}
