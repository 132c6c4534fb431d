//! Pictures of terminals, drawn by a browser.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::browser::Browser;
use super::html;
use super::terminal::Terminal;
use super::top::top;
use crate::daemon::Daemon;

/// Takes pictures of `observer top` in the two sizes of the tests, and of a row in detail.
pub fn of_terminals(browser: &Browser, daemon: &Daemon, folder: &Path) -> Result<()> {
    for (columns, lines) in [(80, 24), (200, 50)] {
        let mut terminal = Terminal::start(&mut top(daemon, &[])?, columns, lines)?;
        // The spark lines are full then.
        terminal.shows("p99")?;
        std::thread::sleep(super::top::SPARK);
        take(browser, &terminal, &folder.join(format!("top-{columns}x{lines}.png")))?;
        if columns == 80 {
            terminal.press("\r")?;
            terminal.shows("TIME")?;
            take(browser, &terminal, &folder.join("top-detail-80x24.png"))?;
        }
        terminal.end(Some("q"))?;
    }
    Ok(())
}

fn take(browser: &Browser, terminal: &Terminal, file: &Path) -> Result<()> {
    let page = TempDir::with_prefix("screen-")?;
    let path = page.path().join("screen.html");
    fs::write(&path, terminal.html())?;
    browser.open(&format!("file://{}", path.display()))?;
    let size = browser.run(&format!(
        "const size = document.querySelector('{}').getBoundingClientRect();
        return [Math.ceil(size.width), Math.ceil(size.height)]",
        html::SCREEN
    ))?;
    let at = |at: usize| {
        size.get(at).and_then(Value::as_u64).and_then(|length| u32::try_from(length).ok())
    };
    browser.look(at(0).context("a width")?, at(1).context("a height")?, true)?;
    browser.screenshot(file)
}
