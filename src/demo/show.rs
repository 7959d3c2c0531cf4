//! How the demo is shown: a live view on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use interdict_monitor::monitor::MonitorState;

use crate::run::clock;

use super::journal::Diverted;
use super::numbers::grouped;
use super::place::Place;
use super::screen::{Screen, Wish};
use super::tally::Tally;
use super::traffic::HISTORY_DAYS;
use super::view::{self, Example, Picture};

/// Time between two plain lines.
const PLAIN: Duration = Duration::from_secs(2);
/// The rate is that of so much time.
const RATE: Duration = Duration::from_secs(3);
/// Recent percentiles are those of one to two such times.
const RECENT: Duration = Duration::from_secs(10);
/// So long an example stays, to be copied.
const EXAMPLE: Duration = Duration::from_secs(30);

/// The demo's face.
#[derive(Debug)]
pub(super) struct Show {
    speed: u32,
    folder: String,
    log: std::path::PathBuf,
    is_terminal: bool,
    screen: Option<(Screen, Diverted)>,
    address: Option<SocketAddr>,
    learning_since: Instant,
    live_since: Option<Instant>,
    printed: Instant,
    rotated: Instant,
    samples: VecDeque<(Instant, u64)>,
    example: Option<(Instant, Example)>,
}

impl Show {
    /// A face for `place`; the terminal is taken only when live traffic begins.
    pub(super) fn open(speed: u32, place: &Place) -> Self {
        let now = clock::instant();
        Self {
            speed,
            folder: place.folder().display().to_string(),
            log: place.folder().join("interdict.log"),
            is_terminal: std::io::stdout().is_terminal(),
            screen: None,
            address: None,
            learning_since: now,
            live_since: None,
            printed: now,
            rotated: now,
            samples: VecDeque::new(),
            example: None,
        }
    }

    /// Tells how far history is.
    pub(super) fn learning(&mut self, events: u64) {
        let now = clock::instant();
        let line = learning(events, now - self.learning_since);
        if self.is_terminal {
            write(&format!("\r\x1b[K{line}"));
        } else if now - self.printed >= PLAIN {
            self.printed = now;
            write(&format!("{line}\n"));
        }
    }

    /// Tells that history is learned.
    pub(super) fn learned(&self, events: u64) {
        let line = if events == 0 {
            "history is in the folder already; going on where it ended".to_owned()
        } else {
            learning(events, clock::instant() - self.learning_since)
        };
        write(&if self.is_terminal { format!("\r\x1b[K{line}\n") } else { format!("{line}\n") });
    }

    /// Live traffic begins.
    pub(super) fn begin(&mut self, address: Option<SocketAddr>) -> std::io::Result<()> {
        let now = clock::instant();
        self.address = address;
        self.live_since = Some(now);
        self.printed = now;
        self.rotated = now;
        if self.is_terminal {
            let diverted = Diverted::to(&self.log)?;
            self.screen = Some((Screen::open()?, diverted));
        }
        Ok(())
    }

    /// For how long traffic has been live.
    pub(super) fn lived(&self) -> Option<Duration> {
        self.live_since.map(|since| clock::instant() - since)
    }

    /// Shows the present moment, and says what the person at the keys wants.
    pub(super) fn draw(&mut self, tally: &Mutex<Tally>, monitor: Option<&MonitorState>) -> std::io::Result<Wish> {
        let now = clock::instant();
        let is_due = self.screen.is_some() || now - self.printed >= PLAIN;
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if now - self.rotated >= RECENT {
            tally.rotate();
            self.rotated = now;
        }
        self.sample(now, tally.counts().decided());
        let Some(simulated_micros) = tally.simulated_micros().filter(|_| is_due) else { return self.wish() };
        let has_first = self.example.is_none();
        self.refresh_example(now, &tally);
        let picture = Picture {
            speed: self.speed,
            simulated_micros,
            lived: self.lived().unwrap_or_default(),
            rate: self.rate(),
            latency: tally.recent_percentiles(),
            counts: tally.counts(),
            shown: tally.shown().cloned().collect(),
            drift: view::drift(monitor),
            address: self.address,
            example: self.example.map(|(_, example)| example),
            folder: &self.folder,
        };
        drop(tally);
        if let Some((screen, _)) = &self.screen {
            screen.draw(&view::lines(&picture))?;
        } else {
            let mut lines = Vec::new();
            if let (true, Some(address)) = (has_first, self.address) {
                lines.push("next, in another terminal:".to_owned());
                lines.extend(view::commands(address, picture.example));
            }
            lines.push(view::plain(&picture));
            self.printed = now;
            super::print(&lines);
        }
        self.wish()
    }

    fn wish(&self) -> std::io::Result<Wish> {
        self.screen.as_ref().map_or(Ok(Wish::Stay), |(screen, _)| screen.wish())
    }

    fn sample(&mut self, now: Instant, decided: u64) {
        self.samples.push_back((now, decided));
        while self.samples.front().is_some_and(|(at, _)| now - *at > RATE) {
            self.samples.pop_front();
        }
    }

    fn rate(&self) -> u64 {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else { return 0 };
        let millis = u64::try_from((*to - *from).as_millis()).unwrap_or(u64::MAX);
        ((last - first) * 1_000).checked_div(millis).unwrap_or(0)
    }

    fn refresh_example(&mut self, now: Instant, tally: &Tally) {
        let number = match &self.example {
            Some((since, _)) if now - *since < EXAMPLE => return,
            Some((_, earlier)) => earlier.number + 1,
            None => 0,
        };
        self.example = tally.example().map(|payment| (now, Example { payment, number }));
    }
}

fn learning(events: u64, took: Duration) -> String {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let rate = events.saturating_mul(1_000_000) / micros;
    format!("learning {HISTORY_DAYS} days of history: {} events, {} events/s", grouped(events), grouped(rate))
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
