//! The libraries under test: each has a folder in `tests/peers`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::report;

/// A library in one of its modes, ready to run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of a library")]
pub struct Stack {
    /// The name, as in the names of cases.
    #[serde(skip)]
    pub name: String,
    /// The server's program and first arguments.
    pub server: Vec<String>,
    /// The client's program and first arguments.
    pub client: Vec<String>,
    /// Variables for the environment of both.
    #[serde(skip)]
    pub env: BTreeMap<String, String>,
    /// Whether the server may end an expired unary call at the moment in which the client resets it: the code on the
    /// wire is not predictable.
    #[serde(default)]
    pub races_deadline: bool,
    /// Whether the server may end an expired call with RST_STREAM(CANCEL): a client whose clock is a little behind
    /// reports `Canceled` to its application.
    #[serde(default)]
    pub resets_expired: bool,
    /// The policies of a service config (gRFC A6) that the client supports: `retryPolicy`, `hedgingPolicy`.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Whether the client writes nothing of a call whose deadline is over before it starts.
    #[serde(default)]
    pub keeps_expired: bool,
    /// Whether the server compresses no responses.
    #[serde(default)]
    pub plain_responses: bool,
    /// Whether the client repeats a refused call by itself, on the same connection.
    #[serde(default)]
    pub repeats_refused: bool,
}

impl Stack {
    /// The stack with these arguments for its server and its client.
    #[must_use]
    pub fn with(&self, args: &[&str]) -> Self {
        let mut stack = self.clone();
        for words in [&mut stack.server, &mut stack.client] {
            words.extend(args.iter().copied().map(str::to_owned));
        }
        stack
    }

    /// The stack with a metrics library in it, whose server and client write their metrics to these files.
    pub fn instrumented(&self, library: &str, server: &Path, client: &Path) -> Result<Self> {
        let mut stack = self.clone();
        if self.name == "python-asyncio" {
            let [python, script, ..] = &*self.server else { bail!("{} has no script", self.name) };
            let script = Path::new(script).with_file_name("instrumented.py");
            let script = script.to_string_lossy().into_owned();
            stack.server = vec![python.clone(), script.clone(), "server".into()];
            stack.client = vec![python.clone(), script, "client".into()];
        }
        for (words, file) in [(&mut stack.server, server), (&mut stack.client, client)] {
            let file = file.to_string_lossy();
            words.extend(["--library", library, "--told", &file].map(str::to_owned));
        }
        Ok(stack)
    }
}

/// The protocol of stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Grpc,
    Thrift,
    /// A receiver of spans and metrics, which makes no calls.
    Otlp,
}

/// A `peer.toml`. In its commands, `{folder}` is its own folder, `{cache}` a folder that is not in the repository,
/// `{target}` cargo's target directory, `{cargo}` cargo.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// The programs that must be installed, for the error if preparing fails.
    needs: String,
    /// What its stacks speak.
    #[serde(default)]
    protocol: Protocol,
    /// Commands that run one after the other if an input has changed; without inputs, each time.
    prepare: Vec<Vec<String>>,
    /// Files that the result depends on, relative to the folder.
    #[serde(default)]
    inputs: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    stacks: BTreeMap<String, Stack>,
}

/// The environment variable with the folders to use, separated by commas; without it, all.
const FOLDERS: &str = "OBSERVER_TEST_PEERS";

/// The environment variable that says that everything is prepared, for virtual machines, which cannot do so.
const PREPARED: &str = "OBSERVER_TEST_PEERS_PREPARED";

/// Prepares the stacks of gRPC of all folders whose inputs have changed. A folder that cannot be prepared is reported
/// and left out; with `CI` in the environment it is an error.
pub fn prepare() -> Result<Vec<Stack>> {
    let stacks = prepare_of(Protocol::Grpc)?;
    ensure!(!stacks.is_empty(), "no stack could be prepared");
    Ok(stacks)
}

/// Does the same as [`prepare`] for the stacks of Thrift. There may be none.
pub fn prepare_thrift() -> Result<Vec<Stack>> {
    prepare_of(Protocol::Thrift)
}

/// Does the same as [`prepare`] for OpenTelemetry's Collector, which takes minutes the first time. Its program is that of
/// the server.
pub fn prepare_collector() -> Result<Option<Stack>> {
    Ok(prepare_of(Protocol::Otlp)?.pop())
}

fn prepare_of(protocol: Protocol) -> Result<Vec<Stack>> {
    let peers = package().join("peers");
    let mut manifests = Vec::new();
    for entry in fs::read_dir(&peers).with_context(|| format!("read {}", peers.display()))? {
        let entry = entry?;
        let manifest = entry.path().join("peer.toml");
        if manifest.is_file() && is_wanted(&entry.file_name()) {
            manifests.push(manifest);
        }
    }
    manifests.sort();
    let mut stacks = Vec::new();
    for manifest in manifests {
        match prepare_folder(&peers, &manifest, protocol) {
            Ok(prepared) => stacks.extend(prepared),
            Err(error) if env::var_os("CI").is_some() => return Err(error),
            Err(error) => {
                let text = format!("not run: the stacks of {}: {error:#}", manifest.display());
                say(&text);
                // Again at the end, where it is not overlooked.
                report::say(&text);
            }
        }
    }
    Ok(stacks)
}

#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests must see what is run and what is not"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

fn is_wanted(folder: &OsStr) -> bool {
    env::var(FOLDERS)
        .map_or(true, |wanted| wanted.split(',').any(|name| OsStr::new(name) == folder))
}

/// Prepares a folder, if its stacks are of this protocol.
fn prepare_folder(peers: &Path, path: &Path, protocol: Protocol) -> Result<Vec<Stack>> {
    let context = || format!("in {}", path.display());
    let text = fs::read_to_string(path).with_context(context)?;
    let manifest: Manifest = toml::from_str(&text).with_context(context)?;
    if manifest.protocol != protocol {
        return Ok(Vec::new());
    }
    let folder = path.parent().with_context(context)?;
    let name = folder.file_name().with_context(context)?;
    let words = Words { folder: folder.into(), cache: peers.join(".cache").join(name) };

    let inputs = inputs(&text, folder, &manifest.inputs)?;
    let stamp = words.cache.join("prepared-from");
    let unchanged = !manifest.inputs.is_empty()
        && fs::read_to_string(&stamp).is_ok_and(|prepared_from| prepared_from == inputs);
    if !unchanged && env::var_os(PREPARED).is_none() {
        fs::create_dir_all(&words.cache)
            .with_context(|| format!("create {}", words.cache.display()))?;
        if !manifest.inputs.is_empty() {
            let time =
                if protocol == Protocol::Otlp { "up to ten minutes" } else { "up to a minute" };
            say(&format!("preparing the peers of {}, {time}", folder.display()));
        }
        for command in &manifest.prepare {
            run(&words.replace_all(command)?)
                .with_context(|| format!("{}: needs {}", path.display(), manifest.needs))?;
        }
        fs::write(&stamp, inputs).with_context(|| format!("write {}", stamp.display()))?;
    }
    let env = manifest.env.iter().map(|(name, value)| Ok((name.clone(), words.replace(value)?)));
    let env: BTreeMap<_, _> = env.collect::<Result<_>>()?;
    let stack = |(name, stack): (String, Stack)| {
        let (server, client) =
            (words.replace_all(&stack.server)?, words.replace_all(&stack.client)?);
        Ok(Stack { name, server, client, env: env.clone(), ..stack })
    };
    manifest.stacks.into_iter().map(stack).collect()
}

/// Everything that the result depends on; the folder too, as Python's virtual environments cannot be moved.
fn inputs(manifest: &str, folder: &Path, names: &[String]) -> Result<String> {
    let mut inputs = format!("{}\n{manifest}", folder.display());
    for name in names {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        inputs.push_str(&text);
    }
    Ok(inputs)
}

struct Words {
    folder: PathBuf,
    cache: PathBuf,
}

impl Words {
    fn replace_all(&self, texts: &[String]) -> Result<Vec<String>> {
        texts.iter().map(|text| self.replace(text)).collect()
    }

    fn replace(&self, text: &str) -> Result<String> {
        let mut text = text
            .replace("{folder}", &self.folder.to_string_lossy())
            .replace("{cache}", &self.cache.to_string_lossy());
        if text.contains("{cargo}") {
            text = text.replace("{cargo}", &env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        }
        if text.contains("{target}") {
            text = text.replace("{target}", &target_dir()?.to_string_lossy());
        }
        Ok(text)
    }
}

/// The directory of this package: the one that cargo runs, which may be a copy of the one in which it was built.
pub fn package() -> PathBuf {
    // A process that another package's program has started has the variables of that package.
    let is_of_this =
        env::var_os("CARGO_PKG_NAME").is_some_and(|name| name == env!("CARGO_PKG_NAME"));
    let run = is_of_this.then(|| env::var_os("CARGO_MANIFEST_DIR")).flatten();
    run.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The directory of the workspace.
pub fn workspace() -> Result<PathBuf> {
    Ok(package().parent().context("the tests are not in a workspace")?.to_owned())
}

/// Cargo's target directory: the tests' own binary is in its `PROFILE/deps`.
pub fn target_dir() -> Result<PathBuf> {
    let binary = env::current_exe().context("find the tests' own binary")?;
    let dir =
        binary.ancestors().nth(3).context("the tests' binary is not in a target directory")?;
    Ok(dir.to_owned())
}

fn run(command: &[String]) -> Result<()> {
    let [program, args @ ..] = command else { bail!("an empty command") };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    // Cargo describes the tests' package to the tests. Build scripts that look at these (ring) would run again.
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CARGO_PKG_")
            || name.as_encoded_bytes().starts_with(b"CARGO_MANIFEST_")
        {
            command.env_remove(name);
        }
    }
    let status = command.status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} {} failed: {status}", args.join(" "));
    Ok(())
}
