//! What comes over HTTP, worked off on the engine's thread; decisions are in [`super::deciding`].
//!
//! Invariant: whatever else is asked waits until the open round of decisions is committed, so that entries of the input log stand where
//! they were applied.

use std::sync::Arc;

use interdict_features::decision::decision_id;
use interdict_features::engine::Evaluate;
use interdict_features::state::AsOf;
use interdict_scorer::http::backend::{Accepted, BackendError, Label, LabelRequest};
use interdict_store::port::{Commit, LogName, Note, Store};
use tokio::sync::mpsc;

use super::commands::{Command, KeyAnswer, KeyRead};
use super::core::Core;
use super::deciding::{Round, append};
use super::input_log::{self, Entry};

/// Commands worked off between two looks at the sources.
const COMMANDS_MAX: usize = 64;

impl<S: Store> Core<S> {
    /// Works off one command and those that wait behind it: one commit for all decisions among them.
    pub(super) async fn take_commands(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> anyhow::Result<()> {
        let mut waiting = vec![first];
        while waiting.len() < COMMANDS_MAX
            && let Ok(command) = commands.try_recv()
        {
            waiting.push(command);
        }
        let mut round = self.prepare(&waiting).await?;
        for command in waiting {
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
                let _caller_left = reply.send(answer);
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

    async fn read(&mut self, read: &KeyRead) -> anyhow::Result<Result<KeyAnswer, BackendError>> {
        if self.charge.is_open() {
            // Whoever is at work has written since the last read.
            self.pipeline.forget();
        }
        let groups: Vec<usize> = (0..self.pipeline.engine().plan().entity_groups[read.entity].len()).collect();
        match self.pipeline.read(read.entity, &read.key, &groups, AsOf::instant(read.as_of)).await {
            Ok((is_known, readouts)) => Ok(Ok(KeyAnswer { is_known, readouts, texts: self.pipeline.texts().to_vec() })),
            Err(error) if error.is_passing() => {
                Ok(Err(BackendError::Unavailable { what: "the store", source: Some(Box::new(error)) }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn label(&mut self, request: LabelRequest) -> anyhow::Result<Result<Accepted, BackendError>> {
        let stream = Arc::clone(&self.pipeline.definitions().streams[request.stream]);
        let value = match request.label {
            Label::Fraud => Some(true),
            Label::Genuine => Some(false),
            Label::Unknown => None,
        };
        let position = self.next_input;
        let version = input_log::label_version(position);
        let Some(batch) = input_log::label_batch(&stream, &request.id, value, request.reported_at, version, position)
        else {
            return Ok(Err(BackendError::NotFound { what: "event" }));
        };
        let entry = Entry::Label {
            stream: stream.name.clone(),
            id: request.id,
            value,
            received: Some(request.budget.received),
            reported: request.reported_at,
            author: request.caller.name.to_string(),
            place: None,
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
        self.apply(&batch, Evaluate::Nothing).await?;
        self.pipeline.advance(input_log::SOURCE, 0, position);
        Ok(Ok(Accepted { position }))
    }
}
