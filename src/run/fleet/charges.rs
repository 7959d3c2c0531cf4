//! Charge of the partitions of topics that an ingestor reads, and that no process without a role has charge of the namespace.
//!
//! A consumer group or a lease says who reads a partition, and both may take somebody for dead who is not. Charge says it to the store:
//! whoever begins with a partition takes it, and from that moment on what another one still holds of it is refused, before and after the
//! new one's first commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{OffsetMove, Store};

use super::super::charge;
use super::mode::ALONE_TOOK_OVER;

/// What the names of positions begin with that say how often charge of a topic's partitions was taken.
const TOPICS: &str = "charge/topic/";

/// What this process is in charge of, with what its commits name.
#[derive(Debug)]
pub(super) struct Charges {
    namespace: OffsetMove,
    partitions: BTreeMap<(Arc<str>, u32), OffsetMove>,
}

impl Charges {
    /// Of no partition yet; `namespace` is what every commit of this process names ([`charge::of_roles`]).
    pub(super) fn begin(namespace: OffsetMove) -> Self {
        Self { namespace, partitions: BTreeMap::new() }
    }

    /// Takes charge of partitions from whoever read them; before their positions are asked for.
    ///
    /// # Errors
    /// As [`charge::take`].
    pub(super) async fn take(
        &mut self,
        store: &impl Store,
        stop: &Stop,
        source: &Arc<str>,
        partitions: &[u32],
    ) -> anyhow::Result<()> {
        if partitions.is_empty() {
            return Ok(());
        }
        let taken = charge::take(store, stop, &format!("{TOPICS}{source}"), partitions).await?;
        self.partitions.extend(taken.into_iter().map(|named| ((Arc::clone(source), named.partition), named)));
        Ok(())
    }

    /// Lets go of partitions that are read here no more.
    pub(super) fn let_go(&mut self, source: &Arc<str>, partitions: &[u32]) {
        for partition in partitions {
            self.partitions.remove(&(Arc::clone(source), *partition));
        }
    }

    /// What a commit names that takes something of `partitions`, each once.
    pub(super) fn of<'a>(&self, partitions: impl IntoIterator<Item = (&'a Arc<str>, u32)>) -> Vec<OffsetMove> {
        let partitions: BTreeSet<_> = partitions.into_iter().collect();
        let named = partitions.into_iter().filter_map(|(source, at)| self.partitions.get(&(Arc::clone(source), at)));
        std::iter::once(&self.namespace).chain(named).cloned().collect()
    }

    /// What a commit names that rests on everything that is read here.
    pub(super) fn all(&self) -> Vec<OffsetMove> {
        std::iter::once(&self.namespace).chain(self.partitions.values()).cloned().collect()
    }
}

/// Says what is to be done where a commit was refused for want of charge.
pub(super) fn told(error: anyhow::Error) -> anyhow::Error {
    let lost = match error.downcast_ref() {
        Some(StoreError::Fenced { source_name, stored, .. }) if source_name == charge::ENGINE => {
            Some(if stored.is_some_and(charge::is_shared) {
                "this namespace has changed hands since this process began, and is worked on by others with --role: start it again".to_owned()
            } else {
                ALONE_TOOK_OVER.to_owned()
            })
        }
        Some(StoreError::Fenced { source_name, partition, .. }) => {
            source_name.strip_prefix(TOPICS).map(|source| taken_over(source, *partition))
        }
        _ => None,
    };
    match lost {
        Some(lost) => error.context(lost),
        None => error,
    }
}

/// That another process reads a partition by now.
pub(super) fn taken_over(source: &str, partition: u32) -> String {
    format!(
        "another process has taken partition {partition} of source '{source}' over: this one stood still, or was cut off, for longer than its lease or session; start it again, it takes its share"
    )
}

#[cfg(test)]
mod tests {
    use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
    use interdict_store::port::Commit;
    use tempfile::TempDir;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// A commit that moves a partition of `payments`, as one in charge makes it.
    fn moving(charges: &Charges, partition: u32, from: Option<u64>, to: u64) -> Commit {
        let source: Arc<str> = "payments".into();
        let mut offsets = charges.of([(&source, partition), (&source, partition)]);
        offsets.push(OffsetMove { source: source.to_string(), partition, from, to });
        Commit { offsets, ..Commit::default() }
    }

    /// In which turn a process may work, as the lease says: none before `least`, which another one has got.
    fn turn(own: u64) -> impl AsyncFn(u64) -> anyhow::Result<u64> {
        async move |least| {
            anyhow::ensure!(own >= least, "the other way has turn {least}");
            Ok(own)
        }
    }

    async fn roles_at(store: &EmbeddedStore, own: u64) -> anyhow::Result<OffsetMove> {
        charge::of_roles(store, &Stop::default(), turn(own)).await
    }

    async fn alone_at(store: &EmbeddedStore, own: u64) -> anyhow::Result<u64> {
        charge::alone(store, &Stop::default(), turn(own)).await
    }

    /// Who of two commits first: the one who was taken for dead, or the one who has taken over.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum First {
        Stale,
        New,
    }

    fn whoever_took_over_stays(first: First) {
        let folder = TempDir::new().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let (source, stop): (Arc<str>, _) = ("payments".into(), Stop::default());
        block_on(async {
            let mut stale = Charges::begin(roles_at(&store, 10).await.unwrap());
            let mut new = Charges::begin(roles_at(&store, 10).await.unwrap());
            stale.take(&store, &stop, &source, &[0, 1]).await.unwrap();
            store.commit(moving(&stale, 0, None, 7)).await.unwrap();
            new.take(&store, &stop, &source, &[0]).await.unwrap();
            if first == First::New {
                store.commit(moving(&new, 0, Some(7), 8)).await.unwrap();
            }
            let refused = store.commit(moving(&stale, 0, Some(7), 9)).await.unwrap_err();
            let refused = crate::told::told(&told(refused.into()));
            assert!(refused.contains("has taken partition 0 of source 'payments' over"), "{refused}");
            let from = if first == First::New { 8 } else { 7 };
            store.commit(moving(&new, 0, Some(from), 10)).await.unwrap();
            // What nobody took from it the other one still has.
            store.commit(moving(&stale, 1, None, 3)).await.unwrap();
            assert_eq!(stale.all().len(), 3);
            stale.let_go(&source, &[0]);
            assert_eq!(stale.of([(&source, 0)]).len(), 1);
            // One that plays every role takes it from all of them.
            let alone = charge::Charge::Taken(alone_at(&store, 20).await.unwrap());
            let refused = store.commit(moving(&new, 0, Some(10), 11)).await.unwrap_err();
            let refused = crate::told::told(&told(refused.into()));
            assert!(refused.contains("a process without --role has taken this namespace over since"), "{refused}");
            let own = async || alone.commit(&store, &stop, "", Commit::default()).await;
            own().await.unwrap();
            alone.take(&store, &stop).await.expect("it is held");
            // And roles that begin behind it from that one, all of them together.
            let roles = roles_at(&store, 30).await.unwrap();
            assert_eq!(roles_at(&store, 30).await.unwrap(), roles);
            let lost = crate::told::told(&own().await.unwrap_err());
            assert!(lost.contains("processes with --role have taken this namespace over"), "{lost}");
            assert!(alone.take(&store, &stop).await.is_err(), "nobody takes it back");
            let refused = store.commit(moving(&new, 0, Some(10), 11)).await.unwrap_err();
            let refused = crate::told::told(&told(refused.into()));
            assert!(refused.contains("this namespace has changed hands since this process began"), "{refused}");
            store.commit(moving(&Charges::begin(roles), 0, Some(10), 11)).await.unwrap();
        });
    }

    #[test]
    fn whoever_stood_still_fences_nobody_off_who_works() {
        let folder = TempDir::new().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let works =
            async |roles: &OffsetMove| store.commit(moving(&Charges::begin(roles.clone()), 0, Some(1), 1)).await;
        block_on(async {
            let roles = roles_at(&store, 10).await.unwrap();
            store.commit(moving(&Charges::begin(roles.clone()), 0, None, 1)).await.unwrap();
            // A process without a role began when they had ended (turn 11), and stands still while they begin again.
            assert_eq!(roles_at(&store, 12).await.unwrap(), roles);
            alone_at(&store, 11).await.unwrap_err();
            works(&roles).await.unwrap();
            // One with a role stands still while a process without one takes over.
            let alone = alone_at(&store, 13).await.unwrap();
            roles_at(&store, 12).await.unwrap_err();
            charge::Charge::Taken(alone).commit(&store, &Stop::default(), "", Commit::default()).await.unwrap();
            works(&roles).await.unwrap_err();
            // What another one has begun of going over is finished.
            let beginning = [(0, Some(alone), alone + 2), (1, Some(13), 14)];
            let begun = |(partition, from, to)| OffsetMove { source: charge::ENGINE.to_owned(), partition, from, to };
            let offsets = beginning.map(begun).to_vec();
            store.commit(Commit { offsets, ..Commit::default() }).await.unwrap();
            works(&roles_at(&store, 14).await.unwrap()).await.unwrap();
        });
    }

    #[test]
    fn whoever_took_over_stays_where_the_other_one_comes_first() {
        whoever_took_over_stays(First::Stale);
    }

    #[test]
    fn whoever_took_over_stays_where_he_comes_first() {
        whoever_took_over_stays(First::New);
    }

    #[test]
    fn two_who_take_charge_at_once_do_not_both_have_it() {
        let folder = TempDir::new().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let (source, stop): (Arc<str>, _) = ("payments".into(), Stop::default());
        let (one, other) = block_on(async { tokio::try_join!(roles_at(&store, 10), roles_at(&store, 10)) }).unwrap();
        assert_eq!(one, other);
        let (mut one, mut other) = (Charges::begin(one), Charges::begin(other));
        let (taken, also) = block_on(async {
            tokio::join!(one.take(&store, &stop, &source, &[0]), other.take(&store, &stop, &source, &[0]))
        });
        taken.and(also).unwrap();
        assert_ne!(one.all(), other.all());
        let made = [one, other].map(|charges| block_on(store.commit(moving(&charges, 0, None, 1))).is_ok());
        assert_eq!(made.iter().filter(|is_made| **is_made).count(), 1);
    }
}
