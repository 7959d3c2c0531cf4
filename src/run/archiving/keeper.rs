//! The thread of one source's archive: takes what its reader gives, and publishes it as far as it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use interdict_ingest::archive::Writer;
use interdict_ingest::archive::error::ArchiveError;
use interdict_ingest::archive::metrics::SourceMetrics;
use interdict_store::error::Class;

use super::super::clock;
use super::super::patience::RETRY;
use super::{Given, LOOK, Progress, Shared, now_seconds};

/// An archive's own thread.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) source: String,
    pub(super) progress: Arc<Progress>,
    pub(super) metrics: SourceMetrics,
    pub(super) writer: Writer,
}

impl Keeper {
    /// Takes what comes until the reader has ended, then publishes what is stored.
    pub(super) fn run(&mut self, queue: &Receiver<Given>) -> anyhow::Result<()> {
        loop {
            match queue.recv_timeout(LOOK) {
                Ok(given) => self.take(&given)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.writer.is_due(clock::now()) {
                self.again(Writer::seal)?;
            }
            self.publish()?;
        }
        while !self.shared.is_over.load(Ordering::Acquire) {
            std::thread::park_timeout(LOOK);
            self.publish()?;
        }
        self.publish()?;
        self.again(Writer::seal)?;
        self.publish()
    }

    fn take(&mut self, given: &Given) -> anyhow::Result<()> {
        self.again(|writer| writer.make_room(&given.batches, given.position))?;
        self.writer.push(&given.batches, given.position, clock::now())?;
        if let Some(prepared) = &given.prepared {
            // What was sealed before waits for the store, which has been given all of it.
            while self.writer.is_sealed() {
                if self.shared.stop.wait(LOOK) {
                    return Ok(());
                }
                self.publish()?;
            }
            self.again(Writer::prepare)?;
            let _reader_stopped = prepared.send(());
        }
        self.metrics.waiting.set(i64::try_from(self.writer.waiting_rows()).unwrap_or(i64::MAX));
        Ok(())
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let stored = self.progress.stored.load(Ordering::Acquire);
        let before = self.writer.counts();
        if !self.again(|writer| writer.publish(stored))? {
            return Ok(());
        }
        let after = self.writer.counts();
        self.metrics.rows.inc_by(after.rows - before.rows);
        self.metrics.files.inc_by(after.files - before.files);
        self.metrics.bytes.inc_by(after.bytes - before.bytes);
        self.metrics.waiting.set(i64::try_from(self.writer.waiting_rows()).unwrap_or(i64::MAX));
        self.metrics.published.set(now_seconds());
        self.progress.archived.store(self.writer.position(), Ordering::Release);
        let (rows, files) = (after.rows - before.rows, after.files - before.files);
        tracing::debug!(source = self.source, rows, files, position = self.writer.position(), "archived");
        Ok(())
    }

    /// Does something on the disk, again and again while it refuses.
    fn again<T>(&mut self, mut act: impl FnMut(&mut Writer) -> Result<T, ArchiveError>) -> anyhow::Result<T> {
        loop {
            match act(&mut self.writer) {
                Ok(done) => return Ok(done),
                Err(error) if error.class() == Class::Transient => {
                    self.metrics.failures.inc();
                    tracing::error!(%error, source = self.source, "the archive takes nothing; intake waits");
                    anyhow::ensure!(
                        !self.shared.stop.wait(RETRY),
                        "told to stop while the archive takes nothing; what is not archived is read again after the next start"
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
