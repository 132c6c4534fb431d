//! Prepares gRPC stacks for TLS: for `cargo xtask demo --tls`.
//!
//! The arguments are a folder, and the names of the stacks. It writes certificates into the folder, and `stacks.json`, which
//! says how to run the servers and clients.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use support::stack;
use support::tls::{Certificates, Shown};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("no folder")?);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let certificates = Certificates::in_folder(&folder)?;
    let stacks = stack::prepare()?;
    let mut wanted: Vec<Value> = Vec::new();
    for name in arguments {
        let stack = stacks.iter().find(|stack| stack.name == name);
        let stack = stack.with_context(|| format!("the stack {name} could not be prepared"))?;
        let stack = certificates.stack(stack, Shown::ByServer);
        wanted.push(json!({"server": stack.server, "client": stack.client, "env": stack.env}));
    }
    let path = folder.join("stacks.json");
    fs::write(&path, serde_json::to_vec(&wanted)?)
        .with_context(|| format!("write {}", path.display()))
}
