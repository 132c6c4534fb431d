//! `observer top`: the figures of a daemon in a terminal, or once as text or JSON.
//!
//! [`app`](self) keeps what is chosen and shown, without a terminal, and `draw` and `detail` draw it of `cells`; `source`
//! brings the figures (of a daemon that is asked, `remote`, with what it asks for: `access`), and this file puts them
//! together.

#![forbid(unsafe_code)]

mod access;
mod address;
mod app;
mod cells;
mod detail;
mod draw;
mod history;
mod owner;
mod remote;
mod source;
mod table;

use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::metrics::view::{Filter, Order};
pub use access::{Access, PASSWORD_VARIABLE, Password};
pub use address::Address;
use app::App;
pub use remote::Remote;
pub use source::Source;
use source::Update;

/// For a key; and so long at most a sample waits to be shown.
const POLL: Duration = Duration::from_millis(100);

/// How `observer top` was called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The daemon to ask.
    pub address: Option<Address>,
    /// What it asks for.
    pub access: Access,
    /// One snapshot instead of a live view.
    pub once: Option<Format>,
    /// In which order rows are shown at first.
    pub order: Order,
    /// Which rows are shown at first: words that must all be in one.
    pub filter: String,
}

/// How a snapshot is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: the model, as at `/api/v1/view`.
    Json,
}

/// Shows what the source tells until told to stop; or prints it once.
pub fn run(source: Source, options: &Options) -> Result<()> {
    match options.once {
        Some(format) => print(&source, format, options),
        None => live(source, options),
    }
}

fn print(source: &Source, format: Format, options: &Options) -> Result<()> {
    let mut model = source.once()?;
    let filter = Filter::new(&options.filter);
    let text = match format {
        Format::Table => {
            let rows = model.ordered(options.order, &filter);
            table::table(&model, &rows, &source.name(), width())
        }
        Format::Json => {
            model.rows = model.ordered(options.order, &filter).into_iter().cloned().collect();
            // They were by the rows' old places.
            model.summary.find_worst(&model.rows);
            serde_json::to_string(&model)? + "\n"
        }
    };
    stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// Columns of the terminal; where the text goes elsewhere, as many as COLUMNS says, or what a mail has.
fn width() -> usize {
    const USUAL: usize = 80;
    const LEAST: usize = 60;
    let of_terminal = || stdout().is_terminal().then(terminal::size)?.ok();
    let asked = || std::env::var("COLUMNS").ok()?.parse().ok();
    of_terminal().map(|(columns, _)| columns.into()).or_else(asked).unwrap_or(USUAL).max(LEAST)
}

fn live(source: Source, options: &Options) -> Result<()> {
    ensure!(
        stdout().is_terminal(),
        "stdout is not a terminal: add --once --table or --once --json for a snapshot"
    );
    let stop = Arc::new(AtomicBool::new(false));
    // Not SIGHUP, which ends the process: its terminal is gone, and crossterm 0.29 would read the
    // end of it again and again.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    // One that is not there may come; one that refuses will go on to.
    if let Source::Daemon(remote) = &source {
        remote.answers()?;
    }
    let mut app = App::new(source.name(), options.order, &options.filter);
    let updates = source.follow()?;
    let mut terminal = ratatui::try_init().context("cannot set up the terminal")?;
    let shown = show(&mut terminal, &mut app, &updates, &stop);
    ratatui::try_restore().context("cannot restore the terminal")?;
    shown
}

fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    updates: &Receiver<Update>,
    stop: &AtomicBool,
) -> Result<()> {
    let begun = Instant::now();
    let mut changed = true;
    while !stop.load(Ordering::Relaxed) && !app.is_over() {
        loop {
            match updates.try_recv() {
                Ok(update) => app.take(update, begun.elapsed()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => anyhow::bail!("no more samples arrive"),
            }
            changed = true;
        }
        if changed {
            terminal.draw(|frame| draw::draw(frame, app))?;
            changed = false;
        }
        if event::poll(POLL)? {
            match event::read()? {
                Event::Key(key) if !key.is_release() => app.press(key),
                _ => {}
            }
            changed = true;
        }
    }
    Ok(())
}
