//! Debian's chromium, headless, controlled over its chromedriver (W3C WebDriver).

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::process::{Process, runs};
use crate::report;

/// Time for one command.
const LIMIT: Duration = Duration::from_mins(1);

/// Whether chromium and chromedriver are installed. With `CI` in the environment they must be.
pub fn is_there() -> Result<bool> {
    let there = runs("chromedriver", "--version") && runs("chromium", "--version");
    if !there {
        let install = "apt-get install chromium chromium-driver";
        ensure!(std::env::var_os("CI").is_none(), "no browser: {install}");
        report::say(&format!("not run: the page in a browser: {install}"));
    }
    Ok(there)
}

/// A running browser with a window.
#[derive(Debug)]
pub struct Browser {
    _driver: Process,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts a browser, with an empty page of 1280 × 800 pixels.
    pub fn start() -> Result<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = Process::spawn(&mut command)?;
        let port = port(BufReader::new(driver.stdout()?))?;
        let mut browser = Self { _driver: driver, port, session: String::new() };
        // Root's browser has no sandbox, and shows only pages of the tests.
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.ask("POST", "/session", Some(&wanted)).context("start chromium")?;
        let session = made.get("sessionId").and_then(Value::as_str).context("no session")?;
        browser.session = format!("/session/{session}");
        browser.look(1280, 800, false)?;
        Ok(browser)
    }

    /// Sets the window's size in pixels, and whether the user prefers dark colours.
    pub fn look(&self, width: u32, height: u32, dark: bool) -> Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &media)
    }

    /// Sets whether pages may run scripts; [`Self::run`] still works.
    pub fn scripts(&self, run: bool) -> Result<()> {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": !run}))
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<()> {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", &body).map(drop)
    }

    /// Opens a page, and waits until it is loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).map(drop)
    }

    /// Reloads the page.
    pub fn reload(&self) -> Result<()> {
        self.post("/refresh", &json!({})).map(drop)
    }

    /// Opens another window, switches to it, and returns its handle.
    pub fn another_window(&self) -> Result<String> {
        let window = self.post("/window/new", &json!({"type": "window"}))?;
        let handle = window.get("handle").and_then(Value::as_str).context("no handle")?;
        self.switch_to(handle)?;
        Ok(handle.to_owned())
    }

    /// Switches to the window with this handle.
    pub fn switch_to(&self, window: &str) -> Result<()> {
        self.post("/window", &json!({"handle": window})).map(drop)
    }

    /// Runs the body of a function in the page, and returns its result.
    pub fn run(&self, script: &str) -> Result<Value> {
        let body = json!({"script": script, "args": []});
        self.post("/execute/sync", &body).with_context(|| script.to_owned())
    }

    /// Whether an expression is true in the page.
    pub fn holds(&self, condition: &str) -> Result<bool> {
        Ok(self.run(&format!("return Boolean({condition})"))? == Value::Bool(true))
    }

    /// Presses keys, one after the other, at the element with the focus.
    pub fn press(&self, keys: &str) -> Result<()> {
        let mut strokes = Vec::new();
        for key in keys.chars() {
            strokes.push(json!({"type": "keyDown", "value": key.to_string()}));
            strokes.push(json!({"type": "keyUp", "value": key.to_string()}));
        }
        let actions = json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]});
        self.post("/actions", &actions).map(drop)
    }

    /// The messages in the browser's log since the last call.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.post("/se/log", &json!({"type": "browser"}))?;
        let entries = log.as_array().context("no log")?;
        let message = |entry: &Value| Some(entry.get("message")?.as_str()?.to_owned());
        Ok(entries.iter().filter_map(message).collect())
    }

    /// Writes the visible part of the page to a file, as PNG.
    pub fn screenshot(&self, file: &Path) -> Result<()> {
        let picture = self.ask("GET", &format!("{}/screenshot", self.session), None)?;
        let picture = BASE64_STANDARD.decode(picture.as_str().context("no picture")?)?;
        fs::write(file, picture).with_context(|| format!("write {}", file.display()))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", &format!("{}{path}", self.session), Some(body))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map_or(Vec::new(), |body| body.to_string().into_bytes());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: {}\r\n\
             Content-Type: application/json\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        )?;
        stream.write_all(&body)?;
        let mut answer: Value = serde_json::from_slice(&read(BufReader::new(stream))?)?;
        let value = answer.get_mut("value").context("an answer without value")?.take();
        if let Some(error) = value.get("error") {
            let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
            bail!("the browser: {error}: {}", message.lines().next().unwrap_or_default());
        }
        Ok(value)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // chromedriver is killed next, and leaves the browser running.
        let _ = self.ask("DELETE", &self.session, None);
    }
}

/// The port that chromedriver prints.
fn port(mut output: impl BufRead) -> Result<u16> {
    let mut line = String::new();
    while output.read_line(&mut line)? > 0 {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port.trim().trim_end_matches('.').parse().context("chromedriver's port");
        }
        line.clear();
    }
    bail!("chromedriver does not start")
}

/// Reads an answer with a `Content-Length`, and returns its body.
fn read(mut stream: impl BufRead) -> Result<Vec<u8>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "chromedriver ends in the middle of an answer");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let mut body = vec![0; length.context("an answer without length")?];
    stream.read_exact(&mut body)?;
    Ok(body)
}
