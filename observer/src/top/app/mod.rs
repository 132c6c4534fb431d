//! What is shown, and what keys do to it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::history::{Histories, Key};
use super::source::Update;
use crate::metrics::view::{Filter, Model, Order, Row};

/// Rows that a page key moves by.
const PAGE: isize = 10;

/// All state of the view.
#[derive(Debug)]
pub(super) struct App {
    pub(super) source: String,
    pub(super) model: Option<Model>,
    pub(super) histories: Histories,
    /// Why there are no new samples.
    pub(super) trouble: Option<String>,
    pub(super) paused: bool,
    pub(super) order: Order,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) screen: Screen,
    /// The row that keys are for.
    chosen: Option<Key>,
    taken: Option<Duration>,
    over: bool,
}

/// What keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    Table,
    /// The table, while its filter is written.
    Filter,
    Detail,
    Help,
}

impl App {
    pub(super) fn new(source: String, order: Order, filter: &str) -> Self {
        Self {
            source,
            model: None,
            histories: Histories::default(),
            trouble: None,
            paused: false,
            order,
            reversed: false,
            filter: filter.to_owned(),
            screen: Screen::Table,
            chosen: None,
            taken: None,
            over: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes what the source tells at this time.
    pub(super) fn take(&mut self, update: Update, now: Duration) {
        let model = match update {
            Update::Lost(reason) => {
                self.trouble = Some(reason);
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

    /// The rows to show, in their order.
    pub(super) fn rows(&self) -> Vec<&Row> {
        let Some(model) = &self.model else { return Vec::new() };
        let mut rows = model.ordered(self.order, &Filter::new(&self.filter));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Where the chosen row is among these: the first one if there is none.
    pub(super) fn place(&self, rows: &[&Row]) -> Option<usize> {
        let chosen = self.chosen.as_ref();
        let at = chosen.and_then(|key| rows.iter().position(|row| key.is(row)));
        at.or((!rows.is_empty()).then_some(0))
    }

    /// The row that the detail is of.
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
            Screen::Table | Screen::Detail => self.command(key.code),
        }
    }

    fn write_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.screen = Screen::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.screen = Screen::Table;
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
            KeyCode::Char('/') => self.screen = Screen::Filter,
            KeyCode::Char('?' | 'h') => self.screen = Screen::Help,
            KeyCode::Char('s' | '>') | KeyCode::Right => self.next_order(1),
            KeyCode::Char('<') | KeyCode::Left => self.next_order(Order::ALL.len() - 1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Enter if self.screen == Screen::Table => {
                // The first row is chosen without a key.
                self.step(0);
                if self.chosen.is_some() {
                    self.screen = Screen::Detail;
                }
            }
            KeyCode::Enter | KeyCode::Esc | KeyCode::Backspace => self.screen = Screen::Table,
            _ => self.order_by(key),
        }
    }

    /// A key for each order, as the help tells.
    fn order_by(&mut self, key: KeyCode) {
        let order = ORDER_KEYS.iter().find(|(of, _)| key == KeyCode::Char(*of));
        if let Some(&(_, order)) = order {
            self.order = order;
            self.reversed = false;
        }
    }

    fn next_order(&mut self, by: usize) {
        let at = Order::ALL.iter().position(|order| *order == self.order).unwrap_or(0);
        if let Some(order) = Order::ALL.get((at + by) % Order::ALL.len()) {
            self.order = *order;
            self.reversed = false;
        }
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let Some(at) = self.place(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len() - 1);
        self.chosen = rows.get(to).map(|row| Key::of(row));
    }
}

/// Which key sorts by what.
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
