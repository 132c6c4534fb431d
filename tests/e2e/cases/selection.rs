//! Selection: processes and ports that are watched, next to others that are not.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Identity, Listen, Server};
use support::stack::Stack;
use tempfile::TempDir;

use crate::plans::few;

pub(crate) fn only_the_selected_port_is_counted(server: &Stack, client: &Stack) -> Result<()> {
    let (chosen, other) = (Server::start(server, Listen::V4)?, Server::start(server, Listen::V4)?);
    let daemon = Daemon::start(&["--port", &chosen.port()?])?;
    let (other_client, _) = Client::start(client, &other, &few(7))?.finish()?;
    let (client, did) = Client::start(client, &chosen, &few(5))?.finish()?;
    daemon.settle(&[
        Expected::of_client(&client, &did),
        Expected::of_server(chosen.identity(), &did),
        Expected::nothing(&other_client),
        Expected::nothing(other.identity()),
    ])?;
    daemon.stop()
}

/// A server that served calls under another name before.
pub(crate) fn process_title_is_selected_by_comm(server: &Stack, client: &Stack) -> Result<()> {
    const TITLE: &str = "orders-titled";
    let folder = TempDir::with_prefix("title-").context("create a folder")?;
    let [script, wanted] = ["title.cjs", "wanted"].map(|name| folder.path().join(name));
    let text = format!(
        "const {{ existsSync }} = require('node:fs');\n\
         const look = () => {{ if (existsSync({})) process.title = '{TITLE}'; }};\n\
         setInterval(look, 10).unref();\n",
        json!(wanted),
    );
    fs::write(&script, text).context("write a script")?;
    let mut server = server.clone();
    server.env.insert("NODE_OPTIONS".into(), format!("--require={}", script.display()));
    let daemon = Daemon::start(&["--comm", TITLE])?;
    let server = Server::start(&server, Listen::V4)?;
    let (before, _) = Client::start(client, &server, &few(7))?.finish()?;
    daemon.settle(&[Expected::nothing(&before), Expected::nothing(server.identity())])?;
    fs::write(&wanted, []).context("ask for the title")?;
    let name = format!("/proc/{}/comm", server.pid());
    let begin = Instant::now();
    while fs::read_to_string(&name)?.trim_end() != TITLE {
        ensure!(begin.elapsed() < Duration::from_secs(10), "{} has no title", server.identity());
        sleep(Duration::from_millis(10));
    }
    let (client, did) = Client::start(client, &server, &few(20))?.finish()?;
    let titled = Identity { comm: TITLE.into(), ..server.identity().clone() };
    daemon.settle(&[Expected::of_server(&titled, &did), Expected::nothing(&client)])?;
    daemon.stop()
}

pub(crate) fn only_the_selected_process_is_counted(server: &Stack, client: &Stack) -> Result<()> {
    let (chosen, other) = (Server::start(server, Listen::V4)?, Server::start(server, Listen::V4)?);
    let daemon = Daemon::start(&["--pid", &chosen.pid()])?;
    let (other_client, _) = Client::start(client, &other, &few(7))?.finish()?;
    let (client, did) = Client::start(client, &chosen, &few(5))?.finish()?;
    daemon.settle(&[
        Expected::of_server(chosen.identity(), &did),
        Expected::nothing(&client),
        Expected::nothing(&other_client),
        Expected::nothing(other.identity()),
    ])?;
    daemon.stop()
}

/// The client and the server are different programs.
pub(crate) fn only_the_selected_name_is_counted(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let daemon = Daemon::start(&["--comm", &server.identity().comm])?;
    let (client, did) = Client::start(client, &server, &few(5))?.finish()?;
    let server = Expected::of_server(server.identity(), &did);
    daemon.settle(&[server, Expected::nothing(&client)])?;
    daemon.stop()
}
