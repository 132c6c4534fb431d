//! The state of the view, and how keys change it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum as _;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::history::{Histories, Key};
use super::source::Update;
use crate::connections;
use crate::metrics::view::{Edge, Filter, Model, Order, Row};

/// The number of rows that a page key moves by.
const PAGE: isize = 10;

/// The state of the view.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) source: String,
    pub(super) model: Option<Model>,
    pub(super) histories: Histories,
    /// The reason why there are no new samples.
    pub(super) trouble: Option<String>,
    pub(super) paused: bool,
    pub(super) order: Order,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) screen: Screen,
    /// The screen to go back to from the filter.
    before_filter: Screen,
    /// The selected row.
    chosen: Option<Key>,
    /// The position of the selected edge.
    edge: usize,
    /// The connections by process, or the reason why they are not known.
    pub(super) connections: Option<Result<connections::Model, String>>,
    /// The first line of the connections that is shown.
    line: usize,
    /// The highest value of `line`, with which the last lines are shown. Known after drawing.
    last_line: Cell<usize>,
    /// Whether the connections are shown, for the source.
    wants_connections: Arc<AtomicBool>,
    taken: Option<Duration>,
    over: bool,
}

/// The part of the view that takes the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Screen {
    #[default]
    Table,
    /// Another screen, while its filter is edited.
    Filter,
    Detail,
    /// The map of services.
    Map,
    /// The connections of each process.
    Connections,
    Help,
}

impl App {
    pub(super) fn new(source: String, order: Order, filter: &str) -> Self {
        Self { source, order, filter: filter.to_owned(), ..Self::default() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes an update of the source, at the time `now`.
    pub(super) fn take(&mut self, update: Update, now: Duration) {
        let model = match update {
            Update::Lost(reason) => {
                self.trouble = Some(reason);
                return;
            }
            Update::Connections(connections) => {
                if !self.paused || self.connections.is_none() {
                    self.connections = Some(connections);
                }
                return;
            }
            Update::Model(model) => *model,
        };
        self.trouble = None;
        let instance = |model: &Model| model.daemon.instance;
        if self.model.as_ref().is_some_and(|before| instance(before) != instance(&model)) {
            self.histories = Histories::default();
            self.taken = None;
        }
        let seconds = self.taken.map_or(1.0, |then| (now.saturating_sub(then)).as_secs_f64());
        self.taken = Some(now);
        self.histories.add(&model, seconds.round() as u64);
        if !self.paused || self.model.is_none() {
            self.model = Some(model);
        }
    }

    /// The rows to show, in order.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let Some(model) = &self.model else { return Vec::new() };
        let mut rows = model.ordered(self.order, &Filter::new(&self.filter));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// The position of the selected row among `rows`: the first one if none is selected.
    pub(super) fn place(&self, rows: &[&Row]) -> Option<usize> {
        let chosen = self.chosen.as_ref();
        let at = chosen.and_then(|key| rows.iter().position(|row| key.is(row)));
        at.or((!rows.is_empty()).then_some(0))
    }

    /// The edges to show, in the order of their callers: those whose names contain all words of the filter.
    pub(super) fn edges(&self) -> Vec<&Edge> {
        let edges = self.model.iter().flat_map(|model| model.edges.iter().flatten());
        edges.filter(|edge| self.admits(&format!("{} {}", edge.client, edge.server))).collect()
    }

    /// Whether a text contains all words of the filter.
    pub(super) fn admits(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.filter.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }

    /// The position of the selected edge among `count`.
    pub(super) fn edge_at(&self, count: usize) -> Option<usize> {
        Some(self.edge.min(count.checked_sub(1)?))
    }

    /// The first line to show of `count` lines of connections, if there is room for `height`.
    pub(super) fn first_line(&self, count: usize, height: usize) -> usize {
        self.last_line.set(count.saturating_sub(height));
        self.line.min(self.last_line.get())
    }

    /// The screen that is drawn.
    pub(super) fn shown(&self) -> Screen {
        if self.screen == Screen::Filter { self.before_filter } else { self.screen }
    }

    /// Whether the connections are shown, for the source.
    pub(super) fn wants_connections(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.wants_connections)
    }

    /// The row of the detail view.
    pub(super) fn detailed(&self) -> Option<&Row> {
        let key = self.chosen.as_ref()?;
        self.model.as_ref()?.rows.iter().find(|row| key.is(row))
    }

    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over |= key.code == KeyCode::Char('c');
            return;
        }
        match self.screen {
            Screen::Filter => self.write_filter(key.code),
            Screen::Help => self.screen = Screen::Table,
            Screen::Table | Screen::Detail | Screen::Map | Screen::Connections => {
                self.command(key.code);
            }
        }
        let is_shown = self.shown() == Screen::Connections;
        self.wants_connections.store(is_shown, Ordering::Relaxed);
        if !is_shown {
            // They would be out of date.
            self.connections = None;
        }
    }

    fn write_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.screen = self.before_filter,
            KeyCode::Esc => {
                self.filter.clear();
                self.screen = self.before_filter;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => {
                let stays = matches!(self.screen, Screen::Map | Screen::Connections);
                self.before_filter = if stays { self.screen } else { Screen::Table };
                self.screen = Screen::Filter;
            }
            KeyCode::Char('?' | 'h') => self.screen = Screen::Help,
            KeyCode::Char('g') if self.screen == Screen::Map => self.screen = Screen::Table,
            KeyCode::Char('g') => self.screen = Screen::Map,
            KeyCode::Char('o') if self.screen == Screen::Connections => {
                self.screen = Screen::Table;
            }
            KeyCode::Char('o') => self.screen = Screen::Connections,
            KeyCode::Char('s' | '>') | KeyCode::Right => self.next_order(1),
            KeyCode::Char('<') | KeyCode::Left => self.next_order(-1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Enter if self.screen == Screen::Table => {
                // The first row is selected without a key.
                self.step(0);
                if self.chosen.is_some() {
                    self.screen = Screen::Detail;
                }
            }
            KeyCode::Enter | KeyCode::Esc | KeyCode::Backspace => self.screen = Screen::Table,
            _ => self.order_by(key),
        }
    }

    /// Sorts by the order of a key.
    fn order_by(&mut self, key: KeyCode) {
        let order = ORDER_KEYS.iter().find(|(of, _)| key == KeyCode::Char(*of));
        if let Some(&(_, order)) = order {
            self.order = order;
            self.reversed = false;
        }
    }

    fn next_order(&mut self, by: isize) {
        let orders = Order::value_variants();
        let at = orders.iter().position(|order| *order == self.order).unwrap_or(0);
        let to = (at as isize + by).rem_euclid(orders.len() as isize) as usize;
        if let Some(order) = orders.get(to) {
            self.order = *order;
            self.reversed = false;
        }
    }

    fn step(&mut self, by: isize) {
        if self.screen == Screen::Map {
            let count = self.edges().len();
            let Some(at) = self.edge_at(count) else { return };
            self.edge = at.saturating_add_signed(by).min(count - 1);
            return;
        }
        if self.screen == Screen::Connections {
            let last = self.last_line.get();
            self.line = self.line.min(last).saturating_add_signed(by).min(last);
            return;
        }
        let rows = self.rows();
        let Some(at) = self.place(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len() - 1);
        self.chosen = rows.get(to).map(|row| Key::of(row));
    }
}

/// The key of each order.
pub(super) const ORDER_KEYS: [(char, Order); 9] = [
    ('e', Order::Errors),
    ('c', Order::Rate),
    ('i', Order::InFlight),
    ('5', Order::P50),
    ('0', Order::P90),
    ('9', Order::P99),
    ('t', Order::Calls),
    ('n', Order::Process),
    ('m', Order::Method),
];

#[cfg(test)]
mod tests;
