//! Imports point downward: a module imports only those that come before it in these lists, and a crate those that it
//! depends on. Tests may import anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The modules of each crate, the lowest first. A path is a layer of its own within its module.
const CRATES: [(&str, &[&str]); 5] = [
    (
        "observer-common",
        &[
            "frame",
            "layout",
            "settings",
            "writer",
            "counter",
            "record",
            "scanner",
            "block",
            "sync",
            "thrift",
            "tls",
            "driver::arrival",
            "driver::connection",
            "driver::gap",
            "driver::opening",
            "driver::tls",
            "driver",
            "driver::emit",
            "driver::http1",
            "driver::walk",
            "driver::thrift",
        ],
    ),
    (
        "observer-ebpf",
        &[
            "globals",
            "kernel",
            "maps",
            "socket",
            "buffers",
            "transfer",
            "log",
            "count",
            "filter",
            "share",
            "record",
            "ring",
            "window",
            "host",
            "tls::calls",
            "scratch",
            "tls::secured",
            "thrift",
            "connections::ignored",
            "connections::close",
            "connections::entered",
            "connections::open",
            "connections::sweep",
            "connections",
            "tls::plaintext",
            "tls",
            "watch",
            "probes",
        ],
    ),
    (
        "observer-tls",
        &[
            "refusal",
            "bytes",
            "machine",
            "elf",
            "functions",
            "code",
            "hook",
            "library",
            "imports",
            "references",
            "getters",
            "symbols",
            "golang",
            "openssl",
            "boringssl",
            "rustls",
        ],
    ),
    (
        "observer-core",
        &[
            "source",
            "names",
            "process",
            "call",
            "record",
            "protocol",
            "protocol::hpack",
            "protocol::grpc",
            "protocol::http1",
            "protocol::http2",
            "protocol::thrift",
            "ends",
            "statistics",
            "output",
            "edges",
            "pipeline",
        ],
    ),
    (
        "observer",
        &[
            "clock",
            "descriptors",
            "files",
            "sync",
            "system_paths",
            "tls",
            "certificates",
            "http_client",
            "health",
            "log",
            "memory",
            "pressure",
            "process",
            "privileges",
            "sandbox",
            "failures",
            "otlp",
            "metrics",
            "connections",
            "server",
            "kubernetes",
            "config",
            "kernel",
            "libraries",
            "preconditions",
            "pipeline",
            "worker",
            "reload",
            "top",
            "cli",
        ],
    ),
];

#[test]
fn imports_point_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = BTreeSet::new();
    for (name, layers) in CRATES {
        let source = root.join(name).join("src");
        let is_test = |file: &Path| {
            let path = file.strip_prefix(&source).unwrap().with_extension("");
            path.iter().any(|part| part == "tests")
        };
        let mut files = support::rust_files(&source).unwrap();
        files.retain(|file| !is_test(file));
        assert!(files.len() > layers.len(), "{name} has {} files", files.len());
        for file in files {
            let path = file.strip_prefix(&source).unwrap().with_extension("");
            let parts = path.iter().map(|part| part.to_str().unwrap());
            let module: Vec<_> = parts.filter(|part| *part != "mod").collect();
            if let ["lib" | "main"] = *module {
                continue;
            }
            let own = layer(layers, &module);
            for import in imports(&fs::read_to_string(&file).unwrap(), &module) {
                let import: Vec<_> = import.iter().map(String::as_str).collect();
                let other = layer(layers, &import);
                if own.zip(other).is_none_or(|(own, other)| own < other) {
                    wrong.insert(format!("{name}: {} → {}", module.join("::"), import.join("::")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "upward, or not in the lists: {wrong:#?}");
}

/// The innermost layer of a path.
fn layer(layers: &[&str], path: &[&str]) -> Option<usize> {
    let parts = |layer: &str| layer.split("::").count();
    let is_in =
        |layer: &str| layer.split("::").enumerate().all(|(at, part)| path.get(at) == Some(&part));
    let found = layers.iter().enumerate().filter(|(_, layer)| is_in(layer));
    found.max_by_key(|(_, layer)| parts(layer)).map(|(at, _)| at)
}

/// All paths that start with `crate`, without it, and those of the module's parents; without comments and without
/// tests, which are at the end of a file.
fn imports(text: &str, module: &[&str]) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    let code: Vec<String> = code.lines().map(without_comment).collect();
    let mut paths = Vec::new();
    let code: Vec<String> = code.iter().map(|line| from_root(line, module)).collect();
    let code = code.join(" ");
    for (at, found) in code.match_indices("crate::") {
        let is_whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if is_whole {
            let _ = tree(&code[at + found.len()..], &[], &mut paths);
        }
    }
    paths
}

/// Turns a line's `use super::` into a path from `crate`, if it is the file's own module: not indented.
fn from_root(line: &str, module: &[&str]) -> String {
    let Some(mut path) = line.strip_prefix("use super::") else { return line.to_owned() };
    let mut parents = module.split_last().map_or(module, |(_, parents)| parents);
    while let Some(rest) = path.strip_prefix("super::") {
        path = rest;
        parents = parents.split_last().map_or(parents, |(_, parents)| parents);
    }
    format!("use {}::{path}", [&["crate"], parents].concat().join("::"))
}

/// Reads a use tree (Rust Reference, "Use declarations"); returns the text after it.
fn tree<'a>(text: &'a str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            let after = tree(rest, prefix, paths);
            assert!(after.len() < rest.len(), "no use tree: {rest:.40}");
            rest = after;
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'));
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let path = [prefix, &[name.to_owned()]].concat();
    if let Some(rest) = rest.trim_start().strip_prefix("::") {
        return tree(rest, &path, paths);
    }
    paths.push(path);
    match rest.trim_start().strip_prefix("as ") {
        Some(rest) => {
            rest.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
        }
        None => rest,
    }
}

#[test]
fn what_is_imported_is_found() {
    let text = "use crate::{a::{b, c as d}, e}; // crate::no\nfn f() { crate::g::h() }\n\
                use super::{i, j::k};\n#[cfg(test)]\nmod tests { use crate::z; }";
    let found: Vec<String> =
        imports(text, &["x", "y"]).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c", "e", "g::h", "x::i", "x::j::k"]);
}
