//! The terminal while the live view owns it.
//!
//! Invariant: however the process ends short of a kill, the terminal is given back as it was: by drop, and before a panic is printed.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{event, execute, queue, terminal};

/// The size assumed where the terminal does not tell.
const SIZE: (u16, u16) = (80, 24);

static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// One line of the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Line {
    Plain(String),
    Bold(String),
}

/// What the person at the keys wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Stay,
    Leave,
}

/// The alternate screen.
#[derive(Debug)]
pub(super) struct Screen {
    has_keys: bool,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn open() -> io::Result<Self> {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            earlier(info);
        }));
        IS_OPEN.store(true, Ordering::Release);
        // Without keys (standard input is elsewhere) Ctrl-C comes as a signal.
        let has_keys = terminal::enable_raw_mode().is_ok();
        let screen = Self { has_keys };
        execute!(io::stdout(), EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        Ok(screen)
    }

    /// Shows `lines` from the top in one write; what does not fit is cut off.
    pub(super) fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let (width, height) = terminal::size().unwrap_or(SIZE);
        let mut frame = Vec::with_capacity(4_096);
        queue!(frame, BeginSynchronizedUpdate)?;
        let last = lines.len().min(usize::from(height)).saturating_sub(1);
        for (row, line) in (0..height).zip(lines) {
            let (attribute, text) = match line {
                Line::Plain(text) => (Attribute::Reset, text),
                Line::Bold(text) => (Attribute::Bold, text),
            };
            let text: String = text.chars().take(usize::from(width)).collect();
            queue!(frame, MoveTo(0, row), SetAttribute(attribute), Print(&text), SetAttribute(Attribute::Reset))?;
            // In the last column the cursor still stands on the last character, which must not be cleared.
            if text.chars().count() < usize::from(width) {
                queue!(frame, Clear(ClearType::UntilNewLine))?;
            }
            if usize::from(row) == last && row + 1 < height {
                queue!(frame, MoveTo(0, row + 1), Clear(ClearType::FromCursorDown))?;
            }
        }
        queue!(frame, EndSynchronizedUpdate)?;
        let mut out = io::stdout().lock();
        out.write_all(&frame)?;
        out.flush()
    }

    /// What was typed since the last call: q, Escape and Ctrl-C leave.
    pub(super) fn wish(&self) -> io::Result<Wish> {
        while self.has_keys && event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else { continue };
            let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(Wish::Leave);
            }
        }
        Ok(Wish::Stay)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once.
fn restore() {
    if IS_OPEN.swap(false, Ordering::AcqRel) {
        // The terminal may be gone by now; there is nobody left to tell.
        let _terminal_gone = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _never_raw = terminal::disable_raw_mode();
    }
}
