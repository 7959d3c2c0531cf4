//! Partitions of a topic among ingestors, where the broker shares none out: by leases in the store.
//!
//! Every reader of source S holds the lease `topic/S/reader/HOLDER`, and `topic/S/N` for each partition N that it reads. It renews them
//! four times in their time, looks who else is there, and takes or gives up what is due to it ([`Readers::share`]).
//!
//! Invariants:
//! - A partition is read only under its lease, and its lease is given back only after everything taken of it is stored.
//! - Leases are renewed whatever the reading thread waits for. While the store does not answer everything goes on: nobody else gets a
//!   lease either, and nothing is claimed until everybody had time to renew what he holds.
//! - Who has lost a lease to another one ends: he was taken for dead. What he does until then is fenced ([`super::charges`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use interdict_ingest::topic::TopicSource;
use interdict_store::error::Class;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::clock;
use super::super::topics::Among;
use super::charges::taken_over;
use super::lease::Claimant;
use super::share::Readers;

/// What a reader is to read.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Grows with every change.
    number: u64,
    partitions: Vec<u32>,
}

/// What it says to that.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// What it was told last.
    number: u64,
    kept: BTreeSet<u32>,
    /// How many partitions the topic has.
    partitions: u32,
    is_over: bool,
}

/// A reader's way to those who read the same topic.
pub(super) struct Shared {
    claimant: Claimant,
    source: Arc<str>,
    stop: CancellationToken,
    runtime: Handle,
    begun: Option<Begun>,
}

/// One that takes part.
struct Begun {
    told: watch::Receiver<Told>,
    /// What was told last.
    number: u64,
    heard: watch::Sender<Heard>,
    sharing: JoinHandle<anyhow::Result<()>>,
}

impl Shared {
    /// For a reader of `source`; `stop` ends what waits for its turn to ask which topic it is.
    pub(super) fn new(claimant: &Claimant, source: &str, stop: CancellationToken) -> Self {
        // Of several topics with an odd partition each not the same process gets all.
        let holder = Uuid::new_v5(&claimant.holder, source.as_bytes());
        let claimant = Claimant { holder, ..claimant.clone() };
        Self { claimant, source: Arc::from(source), stop, runtime: Handle::current(), begun: None }
    }

    /// Takes part, of as many partitions as the topic has.
    fn begin(&self, partitions: u32) -> Begun {
        let (told, told_seen) = watch::channel(Told::default());
        let (heard, heard_seen) = watch::channel(Heard { partitions, ..Heard::default() });
        let sharing = Sharing {
            claimant: self.claimant.clone(),
            source: Arc::clone(&self.source),
            holds: BTreeMap::new(),
            told,
            heard: heard_seen,
            unanswered: None,
        };
        Begun { told: told_seen, number: 0, heard, sharing: self.runtime.spawn(sharing.run()) }
    }
}

impl Among for Shared {
    /// One process after the other asks which topic it is: the first one gives it its mark, the others find it.
    fn identify(&mut self, source: &mut dyn TopicSource) -> anyhow::Result<Option<String>> {
        let claimant = self.claimant.named(&format!("identity/{}", self.source));
        let identified = claimant.in_turn(&self.runtime, &self.stop, || source.incarnation())?;
        Ok(identified.transpose()?.flatten())
    }

    fn told(&mut self, partitions: u32) -> anyhow::Result<Option<Vec<u32>>> {
        let mut begun = self.begun.take().unwrap_or_else(|| self.begin(partitions));
        begun.heard.send_if_modified(|heard| std::mem::replace(&mut heard.partitions, partitions) != partitions);
        match begun.told.has_changed() {
            Ok(is_new) => {
                let told = is_new.then(|| begun.told.borrow_and_update().clone());
                begun.number = told.as_ref().map_or(begun.number, |told| told.number);
                self.begun = Some(begun);
                Ok(told.map(|told| told.partitions))
            }
            Err(_ended) => {
                self.runtime.block_on(begun.sharing)??;
                Err(anyhow!("the partitions of source '{}' are shared out no more", self.source))
            }
        }
    }

    fn keeps(&mut self, kept: BTreeSet<u32>) {
        let Some(begun) = &self.begun else { return };
        begun.heard.send_modify(|heard| (heard.number, heard.kept) = (begun.number, kept));
    }

    fn end(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        begun.heard.send_modify(|heard| heard.is_over = true);
        if let Ok(Err(error)) = self.runtime.block_on(begun.sharing) {
            tracing::debug!(source = &*self.source, %error, "leases of a topic end by themselves");
        }
    }
}

/// What becomes of a partition whose lease is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    Read,
    /// Another one is to read it, once the reader has heard what it was told since.
    Leaving(u64),
}

/// Keeps the leases of one topic's reader.
struct Sharing {
    claimant: Claimant,
    source: Arc<str>,
    holds: BTreeMap<u32, Hold>,
    told: watch::Sender<Told>,
    heard: watch::Receiver<Heard>,
    /// When the store last did not answer.
    unanswered: Option<Instant>,
}

impl Sharing {
    /// Shares until the reader ends.
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let heard = self.heard.borrow_and_update().clone();
            if heard.is_over {
                self.give_back().await;
                return Ok(());
            }
            self.release_left(&heard).await;
            if !self.take_round(heard.partitions).await? {
                self.unanswered = Some(clock::instant());
            }
            tokio::select! {
                () = tokio::time::sleep(self.claimant.step()) => {}
                heard = self.heard.changed() => if heard.is_err() {
                    // A reader that failed has perhaps not stored everything yet: its leases end by themselves.
                    return Ok(());
                }
            }
        }
    }

    fn prefix(&self) -> String {
        format!("topic/{}/", self.source)
    }

    /// The lease that says that this one reads the topic.
    fn reader(&self) -> String {
        format!("{}reader/{}", self.prefix(), self.claimant.holder)
    }

    fn leases_of<'a>(&self, partitions: impl IntoIterator<Item = &'a u32>) -> Vec<String> {
        let prefix = self.prefix();
        partitions.into_iter().map(|partition| format!("{prefix}{partition}")).collect()
    }

    /// Renews what is held, looks at the others, and takes or gives up what is due; false where the store does not answer.
    async fn take_round(&mut self, partitions: u32) -> anyhow::Result<bool> {
        let mut leases = self.leases_of(self.holds.keys());
        leases.push(self.reader());
        let Some(held) = self.claimant.ask_all(&leases).await? else { return Ok(false) };
        if let Some((lost, _)) = self.holds.keys().zip(held).find(|(_, is_held)| !is_held) {
            anyhow::bail!(taken_over(&self.source, *lost));
        }
        let Some(readers) = self.look().await? else { return Ok(false) };
        let share = readers.share(self.claimant.holder, usize::try_from(partitions).unwrap_or(usize::MAX));
        let reads = self.reads().len();
        if reads > share {
            self.give_up(reads - share);
        } else if reads < share && self.may_claim() {
            let free: Vec<u32> = (0..partitions).filter(|partition| !readers.held.contains_key(partition)).collect();
            return self.claim(share - reads, &free).await;
        }
        Ok(true)
    }

    /// Whether everybody had time to renew what he holds since the store last did not answer.
    fn may_claim(&self) -> bool {
        self.unanswered.is_none_or(|since| clock::instant() - since > self.claimant.time_to_live)
    }

    fn reads(&self) -> Vec<u32> {
        let reads = self.holds.iter().filter(|(_, hold)| **hold == Hold::Read);
        reads.map(|(partition, _)| *partition).collect()
    }

    /// Who reads the topic; `None` where the store does not answer.
    async fn look(&self) -> anyhow::Result<Option<Readers>> {
        let (prefix, reader) = (self.prefix(), format!("{}reader/", self.prefix()));
        let leases = match self.claimant.store.leases(&prefix, Some(&reader)).await {
            Ok(leases) => leases,
            Err(error) if error.class() == Class::Transient => {
                tracing::warn!(%error, source = &*self.source, "who reads a topic is not to be had; it is asked again");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut readers = Readers::default();
        for lease in leases {
            let name = &lease.name[prefix.len()..];
            if let Ok(partition) = name.parse() {
                readers.held.insert(partition, lease.holder);
            } else if name == format!("reader/{}", lease.holder) {
                readers.members.insert(lease.holder);
            }
        }
        Ok(Some(readers))
    }

    /// Has the reader let go of so many partitions.
    fn give_up(&mut self, count: usize) {
        let number = self.told.borrow().number + 1;
        for partition in self.reads().into_iter().rev().take(count) {
            self.holds.insert(partition, Hold::Leaving(number));
        }
        self.tell();
    }

    /// Takes so many of `free` partitions, as far as nobody is faster; false where the store does not answer.
    async fn claim(&mut self, count: usize, free: &[u32]) -> anyhow::Result<bool> {
        let (mut left, mut free) = (count, free);
        let mut is_answered = true;
        while left > 0 && !free.is_empty() {
            let (some, rest) = free.split_at(left.min(free.len()));
            free = rest;
            let Some(held) = self.claimant.ask_all(&self.leases_of(some)).await? else {
                is_answered = false;
                break;
            };
            for (partition, _) in some.iter().zip(held).filter(|(_, is_held)| *is_held) {
                self.holds.insert(*partition, Hold::Read);
                left -= 1;
            }
        }
        if left < count {
            self.tell();
        }
        Ok(is_answered)
    }

    /// Tells the reader what it is to read by now.
    fn tell(&self) {
        let partitions = self.reads();
        tracing::info!(source = &*self.source, ?partitions, "the partitions to read are others now");
        self.told.send_modify(|told| *told = Told { number: told.number + 1, partitions });
    }

    /// Gives back the leases of what the reader has let go of.
    async fn release_left(&mut self, heard: &Heard) {
        let is_left = |(partition, hold): (&u32, &Hold)| match hold {
            Hold::Leaving(since) => (heard.number >= *since && !heard.kept.contains(partition)).then_some(*partition),
            Hold::Read => None,
        };
        let left: Vec<u32> = self.holds.iter().filter_map(is_left).collect();
        if left.is_empty() {
            return;
        }
        self.holds.retain(|partition, _| !left.contains(partition));
        self.claimant.release(&self.leases_of(&left)).await;
    }

    /// Gives everything back.
    async fn give_back(&mut self) {
        let mut leases = self.leases_of(self.holds.keys());
        leases.push(self.reader());
        self.claimant.release(&leases).await;
    }
}

#[cfg(test)]
mod tests;
