//! Lists as people change them, and the databases that are told.
//!
//! Invariants:
//! - The change of a list, its line in the audit log and what goes to databases are one commit.
//! - Whoever takes the last block away sends the unblock, and no automatic block of before comes back.

use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::{Span, Timestamp};
use interdict_scorer::action::act::{Act, ActKind};
use interdict_scorer::http::backend::{BackendError, BlockRemove, BlockSet, Removal};
use interdict_scorer::lists::ListsFull;
use interdict_store::port::{Commit, Durability, Intent, ListEntry, ListWrite, LogName, Store, Unblock};

use super::clock;
use super::core::Core;
use super::deciding::append;
use super::judging::Judging;
use super::promises::FULL_RETRY;

impl<S: Store> Core<S> {
    /// Sets a list entry; a block reaches the databases of its entity too.
    pub(super) async fn set_block(&mut self, set: BlockSet) -> anyhow::Result<Result<(), BackendError>> {
        let now = clock::now();
        if let Err(full) = self.judging.lists.set(dated(&set, now)) {
            return Ok(Err(self::full(&full)));
        }
        let commit = setting(&self.judging, &set, now)?;
        self.commit_act(commit).await?;
        Ok(Ok(()))
    }

    /// Removes a list entry; see [`removing`].
    pub(super) async fn remove_block(&mut self, remove: BlockRemove) -> anyhow::Result<Result<Removal, BackendError>> {
        let entries: Vec<ListEntry> = self.judging.lists.of(&remove.entity).cloned().collect();
        let (removal, commit) = removing(&self.judging, &remove, &entries, clock::now())?;
        if let Some(commit) = commit {
            self.judging.lists.apply(ListWrite::Remove { list: remove.list, entity: remove.entity });
            self.commit_act(commit).await?;
        }
        Ok(Ok(removal))
    }

    /// Commits what a person did, and wakes who carries it out.
    async fn commit_act(&self, commit: Commit) -> anyhow::Result<()> {
        let has_intents = !commit.intents.is_empty();
        self.commit(commit).await?;
        if has_intents {
            self.outbox.notify_one();
        }
        Ok(())
    }
}

/// The entry as it is stored: of the instant at which databases hear of it, which whoever takes it back must be later than.
fn dated(set: &BlockSet, now: Timestamp) -> ListEntry {
    ListEntry { created: set.entry.created.max(now), ..set.entry.clone() }
}

/// Refuses an entry of a person, since the lists are full.
pub(super) fn full(full: &ListsFull) -> BackendError {
    tracing::error!(%full, "a list entry was refused");
    BackendError::Overloaded { what: "the list", retry_after: FULL_RETRY }
}

/// The commit that sets a list entry.
pub(super) fn setting(judging: &Judging, set: &BlockSet, now: Timestamp) -> serde_json::Result<Commit> {
    let entry = dated(set, now);
    let act = act(ActKind::ManualBlock, &entry.entity, &entry.reason, &entry.author, entry.created);
    let intents = if entry.list == ListKind::ManualBlock { judging.by_hand(&act)? } else { Vec::new() };
    let audit = serde_json::json!({
        "act": "set_list_entry", "entry": &entry, "author": *set.caller.name, "at": act.decided_at,
        "id": act_id(&act, &intents),
    });
    Ok(Commit {
        lists: vec![ListWrite::Set(entry)],
        appends: vec![append(LogName::AUDIT, &audit)?],
        intents,
        durability: Durability::Power,
        ..Commit::default()
    })
}

/// What comes of removing a list entry, where `entries` are those of its entity, and the commit that does it. Where no other block binds
/// the entity, it is unblocked in its databases, also when the list has forgotten the block: an automatic one may have ended there, or
/// never have been entered.
pub(super) fn removing(
    judging: &Judging,
    remove: &BlockRemove,
    entries: &[ListEntry],
    now: Timestamp,
) -> serde_json::Result<(Removal, Option<Commit>)> {
    let blocks = [ListKind::ManualBlock, ListKind::AutomaticBlock];
    let entry = entries.iter().find(|entry| entry.list == remove.list);
    let is_blocked_still = entries
        .iter()
        .any(|it| it.list != remove.list && blocks.contains(&it.list) && it.expires.is_none_or(|end| now < end));
    // Later than what it takes back, whatever the clocks say.
    let after = entry.map(|entry| entry.created.plus(Span::from_micros(1)));
    let at = after.map_or(now, |after| after.max(now));
    let act = act(ActKind::Unblock, &remove.entity, &remove.reason, &remove.caller.name, at);
    let unblocks = blocks.contains(&remove.list) && !is_blocked_still;
    let intents = if unblocks { judging.by_hand(&act)? } else { Vec::new() };
    if entry.is_none() && intents.is_empty() {
        return Ok((Removal::Absent, None));
    }
    let is_let_go = unblocks || remove.list == ListKind::AutomaticBlock;
    let unblocks = is_let_go.then(|| Unblock { entity: remove.entity.clone(), at }).into_iter().collect();
    let audit = serde_json::json!({
        "act": "remove_list_entry", "list": remove.list, "entity": remove.entity,
        "reason": remove.reason, "author": *remove.caller.name, "at": remove.budget.received,
        "id": act_id(&act, &intents),
    });
    let commit = Commit {
        lists: vec![ListWrite::Remove { list: remove.list, entity: remove.entity.clone() }],
        appends: vec![append(LogName::AUDIT, &audit)?],
        intents,
        unblocks,
        durability: Durability::Power,
        ..Commit::default()
    };
    Ok((if entry.is_some() { Removal::Removed } else { Removal::Absent }, Some(commit)))
}

fn act(kind: ActKind, entity: &EntityRef, reason: &str, author: &str, decided_at: Timestamp) -> Act {
    Act {
        kind,
        id: uuid::Uuid::new_v4(),
        target: entity.clone(),
        decided_at,
        reason: reason.to_owned(),
        author: Some(author.to_owned()),
        decision: None,
    }
}

/// The id under which the audit log will tell what came of an act, where a database is told of it.
fn act_id(act: &Act, intents: &[Intent]) -> Option<uuid::Uuid> {
    (!intents.is_empty()).then_some(act.id)
}
