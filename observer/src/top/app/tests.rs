use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum as _;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{App, Screen};
use crate::connections::{self, Connections, Following, Kind};
use crate::metrics::view::{
    Counts, DaemonFigures, Edge, Model, Order, Quantiles, Recent, Row, Totals,
};
use crate::top::draw::draw;
use crate::top::source::Update;
use observer_core::call::Role;

const SECOND: Duration = Duration::from_secs(1);

fn row(method: &str, ended: u64, failed: u64) -> Row {
    let counts = Counts { ended, failed, code_not_seen: 0, latency: vec![ended, 0] };
    Row {
        process: "shop".into(),
        pid: 7,
        service_name: String::new(),
        role: Role::Server,
        service: "a.B".into(),
        method: method.into(),
        grpc_type: "unary".into(),
        in_flight: 1,
        total: Totals { counts: counts.clone(), ..Totals::default() },
        recent: Recent {
            rate: Some(ended as f64 / 10.0),
            error_ratio: Some(failed as f64 / ended.max(1) as f64),
            quantiles: Quantiles { p50: Some(0.001), p90: Some(0.01), p99: Some(2.0) },
            counts: counts.clone(),
        },
        last: counts,
    }
}

fn model(instance: u32, rows: Vec<Row>) -> Update {
    Update::Model(Box::new(Model {
        sample: 2,
        window_seconds: Some(10.0),
        bounds_seconds: vec![2.5],
        rows,
        daemon: DaemonFigures { instance, ..DaemonFigures::default() },
        ..Model::default()
    }))
}

fn app() -> App {
    let mut app = App::new("http://x".into(), Order::default(), "");
    app.take(model(1, vec![row("Busy", 100, 0), row("Failing", 10, 5)]), SECOND);
    app
}

fn press(app: &mut App, keys: impl IntoIterator<Item = KeyCode>) {
    for key in keys {
        app.press(KeyEvent::new(key, KeyModifiers::NONE));
    }
}

fn methods(app: &App) -> Vec<&str> {
    app.rows().iter().map(|row| row.method.as_str()).collect()
}

fn screen(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn keys_sort_and_reverse() {
    let mut app = app();
    assert_eq!(methods(&app), ["Failing", "Busy"]);
    press(&mut app, [KeyCode::Char('c')]);
    assert_eq!((app.order, methods(&app)), (Order::Rate, vec!["Busy", "Failing"]));
    press(&mut app, [KeyCode::Char('r')]);
    assert_eq!(methods(&app), ["Failing", "Busy"]);
    for _ in Order::value_variants() {
        press(&mut app, [KeyCode::Right]);
    }
    press(&mut app, [KeyCode::Right, KeyCode::Left]);
    assert_eq!((app.order, app.reversed), (Order::Rate, false));
}

#[test]
fn a_filter_is_written_and_cleared() {
    let mut app = app();
    press(&mut app, "/bus!q".chars().map(KeyCode::Char));
    press(&mut app, [KeyCode::Backspace, KeyCode::Backspace]);
    assert_eq!((methods(&app), app.is_over()), (vec!["Busy"], false));
    press(&mut app, [KeyCode::Enter]);
    assert_eq!((app.screen, methods(&app)), (Screen::Table, vec!["Busy"]));
    press(&mut app, [KeyCode::Char('/'), KeyCode::Esc]);
    assert_eq!(methods(&app).len(), 2);
}

#[test]
fn the_chosen_row_stays_chosen_wherever_it_moves() {
    let mut app = app();
    press(&mut app, [KeyCode::Down, KeyCode::Enter]);
    assert_eq!(app.detailed().map(|row| row.method.as_str()), Some("Busy"));
    app.take(model(1, vec![row("Busy", 100, 50), row("Failing", 10, 5)]), 2 * SECOND);
    assert_eq!(methods(&app), ["Busy", "Failing"]);
    assert_eq!(app.detailed().map(|row| row.recent.counts.failed), Some(50));
    press(&mut app, [KeyCode::End]);
    assert_eq!(app.detailed().map(|row| row.method.as_str()), Some("Failing"));
}

#[test]
fn what_is_paused_stays_as_it_was() {
    let mut app = app();
    press(&mut app, [KeyCode::Char('p')]);
    app.take(model(1, vec![row("New", 1, 0)]), 2 * SECOND);
    assert_eq!(methods(&app), ["Failing", "Busy"]);
    press(&mut app, [KeyCode::Char('p')]);
    app.take(model(1, vec![row("New", 1, 0)]), 3 * SECOND);
    assert_eq!(methods(&app), ["New"]);
}

#[test]
fn a_restarted_daemon_has_no_history() {
    let mut app = app();
    let rows = || vec![row("Busy", 3, 0)];
    app.take(model(1, rows()), 2 * SECOND);
    let history = |app: &App| app.histories.ended(app.rows()[0], 4);
    assert_eq!(history(&app), [0, 0, 100, 3]);
    app.take(Update::Lost("gone".into()), 3 * SECOND);
    assert!(screen(&app, 80, 24).contains("lost: gone"));
    // There was no sample for two seconds.
    app.take(model(1, rows()), 5 * SECOND);
    assert_eq!(history(&app), [3, 0, 0, 3]);
    app.take(model(2, rows()), 6 * SECOND);
    assert_eq!(history(&app), [0, 0, 0, 3]);
    assert!(!screen(&app, 80, 24).contains("lost"));
}

#[test]
fn it_draws_at_any_size() {
    let mut app = app();
    for keys in [vec![], vec![KeyCode::Enter], vec![KeyCode::Esc, KeyCode::Char('?')]] {
        press(&mut app, keys);
        for (width, height) in [(1, 1), (10, 3), (40, 8), (80, 24), (200, 50), (500, 9)] {
            screen(&app, width, height);
        }
    }
}

#[test]
fn control_c_quits_while_a_filter_is_written() {
    let mut app = app();
    press(&mut app, [KeyCode::Char('/')]);
    app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(app.is_over());
}

/// The connections of `count` processes with pids from 1 on.
fn connections(count: u32) -> Update {
    let process = |pid| connections::Process {
        pid,
        name: "orders".into(),
        connections: vec![Connections {
            kind: Kind::TlsNotFollowed,
            seen: 3,
            open: None,
            joined_late: 0,
            with_gaps: 0,
            advice: Some("TLS is not followed: start the daemon with --tls auto".into()),
            tied: [].into(),
        }],
        libraries: Vec::new(),
    };
    let processes = (1..=count).map(process).collect();
    Update::Connections(Ok(connections::Model { tls: Following::Off, processes }))
}

#[test]
fn connections_are_shown_and_scrolled() {
    let mut app = app();
    press(&mut app, [KeyCode::Char('o')]);
    assert!(screen(&app, 80, 24).contains("waiting for the connections"));
    app.take(connections(9), 2 * SECOND);
    let shown = screen(&app, 50, 20);
    let lines: Vec<&str> = shown.lines().skip_while(|line| !line.contains("PROCESS")).collect();
    let expected = [
        "PROCESS, CONNECTIONS        OPEN      SEEN",
        "orders (1)",
        "  TLS, not followed            -         3",
        "    TLS is not followed: start the daemon with",
        "    --tls auto",
        "orders (2)",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(line.trim_matches('"').trim_end(), expected);
    }
    press(&mut app, [KeyCode::Down, KeyCode::PageDown]);
    let shown = screen(&app, 50, 20);
    assert!(!shown.contains("orders (2)") && shown.contains("orders (3)"), "{shown}");
    press(&mut app, [KeyCode::End]);
    let shown = screen(&app, 50, 20);
    assert!(shown.contains("orders (9)") && shown.contains("not selected"), "{shown}");
    // The last line stays at the end of the screen.
    press(&mut app, [KeyCode::Down, KeyCode::Up]);
    assert!(!screen(&app, 50, 20).contains("not selected"));
    press(&mut app, [KeyCode::Home]);
    assert!(screen(&app, 50, 20).contains("orders (1)"));
    app.take(Update::Connections(Err("gone".into())), 3 * SECOND);
    assert!(screen(&app, 80, 24).contains("not known: gone"));
}

#[test]
fn connections_are_wanted_while_they_are_shown() {
    let mut app = app();
    let wanted = app.wants_connections();
    let wanted = || wanted.load(Ordering::Relaxed);
    assert!(!wanted());
    press(&mut app, [KeyCode::Char('o')]);
    assert!(wanted());
    app.take(connections(9), 2 * SECOND);
    press(&mut app, "/9".chars().map(KeyCode::Char));
    let shown = screen(&app, 80, 24);
    assert!(shown.contains("orders (9)") && !shown.contains("orders (1)"), "{shown}");
    assert!(wanted(), "while the filter is edited");
    press(&mut app, [KeyCode::Enter, KeyCode::Char('p')]);
    app.take(connections(1), 3 * SECOND);
    assert!(screen(&app, 80, 24).contains("orders (9)"), "paused");
    press(&mut app, [KeyCode::Char('o')]);
    assert_eq!((app.screen, wanted()), (Screen::Table, false));
    assert!(screen(&app, 80, 24).contains("filter: 9"));
    press(&mut app, [KeyCode::Char('o')]);
    assert!(screen(&app, 80, 24).contains("waiting"), "the former ones are out of date");
    for (width, height) in [(1, 1), (10, 3), (40, 8), (200, 50)] {
        screen(&app, width, height);
    }
}

/// A model with these edges: client, server, and whether calls fail.
fn edges(ends: &[(&str, &str, bool)]) -> Update {
    let edge = |&(client, server, fails): &(&str, &str, bool)| Edge {
        client: client.into(),
        server: server.into(),
        recent_calls: 120,
        recent_failed: u64::from(fails),
        rate: Some(12.0),
        error_ratio: Some(if fails { 0.01 } else { 0.0 }),
        p95: Some(0.012),
        calls: 1_234,
        ..Edge::default()
    };
    let Update::Model(mut of) = model(1, vec![row("Busy", 100, 0)]) else { panic!("a model") };
    of.edges = Some(ends.iter().map(edge).collect());
    Update::Model(of)
}

#[test]
fn the_map_has_each_service_above_those_that_it_calls() {
    let mut app = app();
    assert!(!screen(&app, 80, 24).contains("g map"), "this daemon has none");
    press(&mut app, [KeyCode::Char('g')]);
    assert!(screen(&app, 80, 24).contains("start it with --service-graph"));
    app.take(
        edges(&[("shop", "billing", true), ("shop", "orders", false), ("web", "shop", false)]),
        2 * SECOND,
    );
    assert!(screen(&app, 100, 24).contains("1,234"));
    let shown = screen(&app, 80, 24);
    let lines: Vec<&str> = shown.lines().skip_while(|line| !line.contains("CLIENT")).collect();
    let has = |line: usize, texts: &[&str]| {
        let line = lines[line];
        assert!(texts.iter().all(|text| line.contains(text)), "{line}");
    };
    has(1, &["shop", "├▶ billing", "12.0", "1.0 %", "12 ms"]);
    has(2, &["└▶ orders", "0 %"]);
    assert!(!lines[2].contains("shop"), "{}", lines[2]);
    has(3, &["web", "└▶ shop"]);
    press(&mut app, "/web".chars().map(KeyCode::Char));
    press(&mut app, [KeyCode::Enter, KeyCode::End]);
    assert_eq!((app.screen, app.edges().len(), app.edge_at(1)), (Screen::Map, 1, Some(0)));
    for (width, height) in [(1, 1), (10, 3), (40, 8), (200, 50)] {
        screen(&app, width, height);
    }
    press(&mut app, [KeyCode::Char('g')]);
    assert_eq!(app.screen, Screen::Table);
    press(&mut app, [KeyCode::Char('/'), KeyCode::Esc]);
    assert!(screen(&app, 80, 24).contains("g map"));
}
