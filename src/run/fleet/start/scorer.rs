//! Starting the scorer: judges of work, answers to requests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use interdict_ingest::topic::sink::What;
use interdict_scorer::lists::{Lists, ListsFull};
use tokio::sync::mpsc;

use super::super::super::commands::Command;
use super::super::super::judging::Judging;
use super::super::super::{input_log, sinks};
use super::super::answering::Answering;
use super::super::room::Room;
use super::super::scoring::Scoring;
use super::super::tracked::Tracked;
use super::{Model, Process};

/// Partitions of the source `input`, one per scorer that is up; 0 is that of a process that plays every role.
const SLOTS: u32 = 4_096;

/// How often the length of the queue of work and of the lists is looked at.
const WORK_LOOK: Duration = Duration::from_secs(1);

impl Process<'_> {
    /// Starts the scorer's threads; the judges of all streams.
    pub(super) async fn score(
        &mut self,
        model: Option<&Model>,
        queue: mpsc::Receiver<Command>,
    ) -> anyhow::Result<Judging> {
        let judging = || {
            let setup = self.setup;
            let in_force = model.map(|(runtime, active, _)| (runtime, active));
            let lists = Lists::new(usize::MAX, Vec::new());
            Judging::new(&setup.namespace, Arc::clone(&self.plan), &setup.policy, in_force, setup.engine.shards, lists)
        };
        let full = ListsFull { capacity: self.setup.policy.list_entries_max };
        let room = Arc::new(Room { store: Arc::clone(&self.store), stats: Arc::clone(&self.stats), full });
        room.look().await?;
        let (for_work, for_requests, shown) = (judging()?, judging()?, judging()?);
        let mut scoring = Scoring {
            namespace: self.setup.namespace.clone(),
            plan: Arc::clone(&self.plan),
            queue: Arc::clone(&self.store),
            store: Arc::clone(&self.online),
            judging: for_work,
            stats: Arc::clone(&self.stats),
            outbox: Arc::clone(&self.outbox),
            logged: Arc::clone(&self.logged),
            stop: self.stop_taking.clone(),
            room: Arc::clone(&room),
            member: self.member,
            charge: self.charge.clone(),
        };
        self.thread("scorer", move || async move { scoring.run().await })?;
        if self.setup.serves_http {
            let answering = self.answering(for_requests, &room).await?;
            self.thread("answerer", move || async move {
                let mut answering = answering;
                answering.run(queue).await
            })?;
        }
        self.deliver().await?;
        self.show_work(room);
        Ok(shown)
    }

    async fn answering(&mut self, judging: Judging, room: &Arc<Room>) -> anyhow::Result<Answering> {
        let slot = self.slot().await?;
        let positions = self.store.positions(input_log::SOURCE).await?;
        let stored = positions.iter().find(|offset| offset.partition == slot).map(|offset| offset.position);
        let tracked = Arc::new(Tracked::new(Arc::clone(&self.online)));
        let letters = self.letters()?;
        Ok(Answering {
            namespace: self.setup.namespace.clone(),
            plan: Arc::clone(&self.plan),
            pipeline: self.pipeline(&tracked),
            tracked,
            judging,
            letters,
            sinks_letters: sinks::produces(self.setup, What::DeadLetters),
            stats: Arc::clone(&self.stats),
            fleet: Arc::clone(&self.fleet),
            outbox: Arc::clone(&self.outbox),
            logged: Arc::clone(&self.logged),
            stop: self.stop_taking.clone(),
            room: Arc::clone(room),
            charge: self.charge.clone(),
            slot,
            next: stored.map_or(0, |position| position + 1),
        })
    }

    /// Takes a partition of the source `input` that no other scorer has.
    async fn slot(&mut self) -> anyhow::Result<u32> {
        for slot in 1..SLOTS {
            let claimant = self.claimant(&format!("input-{slot}"));
            if self.store.lease(&claimant.name, claimant.holder, claimant.time_to_live).await?.is_some() {
                let stop = self.stop_rest.clone();
                self.tasks.spawn(async move {
                    let is_kept = claimant.keep(&stop).await?;
                    anyhow::ensure!(is_kept, "another scorer took this one's place; start it again");
                    Ok(())
                });
                return Ok(slot);
            }
        }
        Err(anyhow!("{SLOTS} scorers answer requests of this namespace already"))
    }

    fn show_work(&mut self, room: Arc<Room>) {
        let (store, fleet, stop) = (Arc::clone(&self.store), Arc::clone(&self.fleet), self.stop_rest.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(WORK_LOOK) => {}
                    () = stop.cancelled() => return Ok(()),
                }
                if let Ok(waiting) = store.work_waiting().await {
                    fleet.work_waiting(waiting);
                }
                room.glance().await;
            }
        });
    }
}
