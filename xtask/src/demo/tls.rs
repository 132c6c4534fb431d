//! The services of `cargo xtask demo --tls`: one of each of three languages, which call each other over TLS.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Pair, Program, Shown, plan};
use crate::build;

/// The folders of the stacks, the stacks, and the names of their processes.
const FOLDERS: &str = "go,python,node";
const STACKS: [&str; 3] = ["grpc-go", "python-asyncio", "grpc-js"];
const PROCESSES: [&str; 3] = ["peer", "python", "node"];

/// The pairs: each stack is a server and a client.
const PAIRS: [(usize, &str, usize, &str, &str); 3] = [
    (0, "go-server", 1, "python-client", plan::SHORT_CALLS),
    (1, "python-server", 2, "node-client", plan::STREAMS),
    (2, "node-server", 0, "go-client", plan::SHORT_CALLS),
];

/// A stack, as `tls-stacks` prints it.
#[derive(Deserialize)]
struct Stack {
    server: Vec<String>,
    client: Vec<String>,
    env: BTreeMap<String, String>,
}

/// The daemon with `--tls auto`, and the services.
pub(super) fn shown(directory: &Path) -> Result<Shown> {
    let prepared = directory.join("tls");
    let daemon = build::for_tls_demo(&prepared, FOLDERS, &STACKS)?;
    let path = prepared.join("stacks.json");
    let stacks = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let stacks: Vec<Stack> = serde_json::from_slice(&stacks).context("the stacks")?;
    let stack = |at: usize| stacks.get(at).context("a stack is missing");
    let pair = |(server, server_name, client, client_name, plan)| {
        let (server, client) = (stack(server)?, stack(client)?);
        let client = program(client_name, &client.client, client)?;
        let server = program(server_name, &server.server, server)?;
        Ok(Pair { server, clients: vec![(client, plan)] })
    };
    let pairs = PAIRS.into_iter().map(pair).collect::<Result<_>>()?;
    Ok(Shown { daemon, flags: &["--tls", "auto"], pairs, processes: PROCESSES.to_vec() })
}

fn program(name: &'static str, words: &[String], stack: &Stack) -> Result<Program> {
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args).envs(&stack.env);
    Ok(Program { name, command })
}
