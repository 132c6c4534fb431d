//! `observer top`: the figures of a daemon in a terminal, or once as text or JSON. `observer connections`: its
//! connections.
//!
//! `app` has the state of the view, without a terminal. `draw`, `detail`, `map` and `listed` draw it with the parts in
//! `cells`. `source` gets the figures: from a daemon (`remote`, with the credentials in `access`), or from this process.

#![forbid(unsafe_code)]

mod access;
mod address;
mod app;
mod cells;
mod detail;
mod draw;
mod history;
mod listed;
mod map;
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

use crate::connections;
use crate::metrics::view::{Filter, Order};
pub use access::{Access, PASSWORD_VARIABLE, Password};
pub use address::Address;
use app::App;
pub use remote::Remote;
pub use source::Source;
use source::Update;

/// How long to wait for a key. A new sample waits at most this long.
const POLL: Duration = Duration::from_millis(100);

/// The options of `observer top`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The address of the daemon.
    pub address: Option<Address>,
    /// The credentials for the daemon.
    pub access: Access,
    /// The format of a snapshot; `None` for a live view.
    pub once: Option<Format>,
    /// The order of rows at the start.
    pub order: Order,
    /// The filter of rows at the start: words that a row must all contain.
    pub filter: String,
}

/// The options of `observer connections`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionsOptions {
    /// The address of the daemon.
    pub address: Option<Address>,
    /// The credentials for the daemon.
    pub access: Access,
    /// The format.
    pub format: Format,
}

/// The format of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Table,
    /// JSON for programs, the same as `/api/v1/view` or `/api/v1/connections`.
    Json,
}

/// Shows the figures of a source until the user quits, or prints them once.
pub fn run(source: Source, options: &Options) -> Result<()> {
    match options.once {
        Some(format) => print(&source, format, options),
        None => live(source, options),
    }
}

/// Prints the connections of a source once.
pub fn print_connections(source: &Source, format: Format) -> Result<()> {
    let model = source.connections()?;
    let text = match format {
        Format::Table => connections::table(&model, &source.name(), width()),
        Format::Json => serde_json::to_string(&model)? + "\n",
    };
    stdout().write_all(text.as_bytes()).context("cannot write to stdout")
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
            // The summary refers to rows by their positions.
            model.summary.find_worst(&model.rows);
            serde_json::to_string(&model)? + "\n"
        }
    };
    stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

/// The columns of the terminal. Without one, the value of COLUMNS, or 80.
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
    // SIGHUP must end the process: its terminal was closed, and crossterm 0.29 would read its end again and again.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    // A daemon that is not there may start later. One that refuses will go on to refuse.
    if let Source::Daemon(remote) = &source {
        remote.answers()?;
    }
    let mut app = App::new(source.name(), options.order, &options.filter);
    let updates = source.follow(app.wants_connections())?;
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
