//! What comes over HTTP, worked off on the engine's thread; decisions are in [`super::deciding`].
//!
//! Invariant: whatever else is asked waits until the open round of decisions is committed, so that entries of the input log stand where
//! they were applied.

use std::sync::Arc;

use interdict_features::decision::decision_id;
use interdict_features::engine::Evaluate;
use interdict_features::state::AsOf;
use interdict_scorer::http::backend::{Accepted, BackendError, BlockRemove, BlockSet, Label, LabelRequest, Removal};
use interdict_store::port::{Commit, Durability, ListWrite, LogName, Note, Store};
use tokio::sync::mpsc;

use super::commands::{Command, KeyAnswer, KeyRead};
use super::core::Core;
use super::deciding::{Round, append};
use super::input_log::{self, Entry};
use super::promises::FULL_RETRY;

/// Commands worked off between two looks at the sources.
const COMMANDS_MAX: usize = 64;

impl<S: Store> Core<S> {
    /// Works off one command and those that wait behind it: one commit for all decisions among them.
    pub(super) async fn take_commands(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> anyhow::Result<()> {
        let mut round = Round::default();
        let mut next = Some(first);
        for _ in 0..COMMANDS_MAX {
            let Some(command) = next.take().or_else(|| commands.try_recv().ok()) else { break };
            self.take_command(command, &mut round).await?;
        }
        self.answer(&mut round).await
    }

    async fn take_command(&mut self, command: Command, round: &mut Round) -> anyhow::Result<()> {
        if !matches!(command, Command::Decide(_)) {
            self.answer(round).await?;
        }
        match command {
            Command::Decide(asked) => self.decide(*asked, round).await?,
            Command::Read { read, reply } => {
                let answer = self.read(&read).await?;
                let _caller_left = reply.send(Ok(answer));
            }
            Command::Label { request, reply } => {
                let accepted = self.label(*request).await?;
                let _caller_left = reply.send(accepted);
            }
            Command::SetBlock { set, reply } => {
                let done = self.set_block(*set).await?;
                let _caller_left = reply.send(done);
            }
            Command::RemoveBlock { remove, reply } => {
                let done = self.remove_block(*remove).await?;
                let _caller_left = reply.send(done);
            }
        }
        Ok(())
    }

    async fn read(&mut self, read: &KeyRead) -> anyhow::Result<KeyAnswer> {
        let groups: Vec<usize> = (0..self.pipeline.engine().plan().entity_groups[read.entity].len()).collect();
        let (is_known, readouts) =
            self.pipeline.read(read.entity, &read.key, &groups, AsOf::instant(read.as_of)).await?;
        Ok(KeyAnswer { is_known, readouts, texts: self.pipeline.texts().to_vec() })
    }

    async fn label(&mut self, request: LabelRequest) -> anyhow::Result<Result<Accepted, BackendError>> {
        let stream = Arc::clone(&self.pipeline.definitions().streams[request.stream]);
        let value = match request.label {
            Label::Fraud => Some(true),
            Label::Genuine => Some(false),
            Label::Unknown => None,
        };
        let position = self.next_input;
        let Some(batch) = input_log::label_batch(&stream, &request.id, value, request.reported_at, position) else {
            return Ok(Err(BackendError::NotFound { what: "event" }));
        };
        let entry = Entry::Label {
            stream: stream.name.clone(),
            id: request.id,
            value,
            reported: request.reported_at,
            author: request.caller.name.to_string(),
        };
        let note = Note {
            decision: decision_id(&self.namespace, &stream.name, &request.event_id, 0),
            text: serde_json::to_string(&serde_json::json!({
                "kind": "label", "value": value, "reported_at": request.reported_at,
            }))?,
        };
        let commit = Commit { appends: vec![append(LogName::INPUT, &entry)?], notes: vec![note], ..Commit::default() };
        self.commit(commit).await?;
        self.next_input += 1;
        self.pipeline.apply(&batch, Evaluate::Nothing).await?;
        self.pipeline.advance(input_log::SOURCE, 0, position);
        Ok(Ok(Accepted { position }))
    }

    async fn set_block(&mut self, set: BlockSet) -> anyhow::Result<Result<(), BackendError>> {
        if let Err(full) = self.judging.lists.set(set.entry.clone()) {
            tracing::error!(%full, "a list entry was refused");
            return Ok(Err(BackendError::Overloaded { what: "the list", retry_after: FULL_RETRY }));
        }
        let audit = serde_json::json!({ "act": "set_list_entry", "entry": set.entry, "author": *set.caller.name });
        let commit = Commit {
            lists: vec![ListWrite::Set(set.entry)],
            appends: vec![append(LogName::AUDIT, &audit)?],
            durability: Durability::Power,
            ..Commit::default()
        };
        self.commit(commit).await?;
        Ok(Ok(()))
    }

    async fn remove_block(&mut self, remove: BlockRemove) -> anyhow::Result<Result<Removal, BackendError>> {
        let is_there = self.judging.lists.of(&remove.entity).any(|entry| entry.list == remove.list);
        if !is_there {
            return Ok(Ok(Removal::Absent));
        }
        let write = ListWrite::Remove { list: remove.list, entity: remove.entity.clone() };
        self.judging.lists.apply(write.clone());
        let audit = serde_json::json!({
            "act": "remove_list_entry", "list": remove.list, "entity": remove.entity,
            "reason": remove.reason, "author": *remove.caller.name, "at": remove.budget.received,
        });
        let commit = Commit {
            lists: vec![write],
            appends: vec![append(LogName::AUDIT, &audit)?],
            durability: Durability::Power,
            ..Commit::default()
        };
        self.commit(commit).await?;
        Ok(Ok(Removal::Removed))
    }
}
