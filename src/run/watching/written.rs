//! How far decisions are in Parquet as the store knows it, whichever folder they were written to.
//!
//! Kept as offsets: `monitor/decisions`, up to where any folder has them, and `monitor/FOLDER`, up to where one folder was told of. A monitor
//! moves both in one commit once a batch is in Parquet, from where it knows them. So of two monitors with folders of their own, one of which was taken for
//! dead, only one counts, and the other one finds out.

use interdict_store::error::StoreError;
use interdict_store::port::{OffsetMove, Store};
use uuid::Uuid;

use super::super::core::position_of;

/// What the names of these positions begin with.
pub(crate) const POSITIONS: &str = "monitor/";
/// The name of the position that all folders share.
const DECISIONS: &str = "monitor/decisions";

/// Positions of the newest decisions written, as they are stored.
#[derive(Clone, Debug)]
pub(super) struct Written {
    folder: String,
    /// To any folder.
    all: Option<u64>,
    /// To this one.
    own: Option<u64>,
}

impl Written {
    /// What the store says of `folder` and all others.
    pub(super) async fn read(store: &impl Store, folder: Uuid) -> Result<Self, StoreError> {
        let folder = format!("{POSITIONS}{folder}");
        // Nobody else moves this folder's: whatever the other one is by then, it is not older.
        let own = position_of(&store.positions(&folder).await?, 0);
        let all = position_of(&store.positions(DECISIONS).await?, 0);
        Ok(Self { folder, all, own })
    }

    /// The first position that is in no folder.
    pub(super) fn next(&self) -> u64 {
        behind(self.all)
    }

    /// The first position behind what the store knows of this folder.
    pub(super) fn next_of_folder(&self) -> u64 {
        behind(self.own)
    }

    /// Refuses a commit once another folder has what this one is to hold. The first batch of all is refused when it is told of.
    pub(super) fn fence(&self) -> Vec<OffsetMove> {
        self.all.map(|all| move_of(DECISIONS, self.all, all)).into_iter().collect()
    }

    /// Says that this folder holds everything from here up to `position`.
    pub(super) fn up_to(&self, position: u64) -> Vec<OffsetMove> {
        vec![move_of(DECISIONS, self.all, position), move_of(&self.folder, self.own, position)]
    }

    /// What is stored once [`Self::up_to`] is committed.
    pub(super) fn moved(&self, position: u64) -> Self {
        Self { folder: self.folder.clone(), all: Some(position), own: Some(position) }
    }
}

/// Whether any folder was ever said to hold decisions.
pub(crate) async fn has_written(store: &impl Store) -> Result<bool, StoreError> {
    Ok(position_of(&store.positions(DECISIONS).await?, 0).is_some())
}

fn behind(position: Option<u64>) -> u64 {
    position.map_or(0, |position| position.saturating_add(1))
}

fn move_of(source: &str, from: Option<u64>, to: u64) -> OffsetMove {
    OffsetMove { source: source.to_owned(), partition: 0, from, to }
}
