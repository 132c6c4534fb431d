//! Imports point downward: each module knows only those that come before it in these lists, and a crate those
//! that it depends on. Tests may look anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A crate's modules, the lowest first. Of one with a path, the parts are layers of their own.
const CRATES: [(&str, &[&str]); 4] = [
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
            "tls",
            "driver::arrival",
            "driver::connection",
            "driver::gap",
            "driver::opening",
            "driver",
            "driver::emit",
            "driver::walk",
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
            "scratch",
            "connections::ignored",
            "connections::close",
            "connections::entered",
            "connections::open",
            "connections::sweep",
            "connections",
            "watch",
            "probes",
        ],
    ),
    (
        "observer-core",
        &[
            "source",
            "process",
            "names",
            "call",
            "record",
            "protocol",
            "protocol::hpack",
            "protocol::grpc",
            "protocol::http2",
            "ends",
            "statistics",
            "output",
            "pipeline",
        ],
    ),
    (
        "observer",
        &[
            "clock",
            "files",
            "sync",
            "system_paths",
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
            "metrics",
            "server",
            "kubernetes",
            "config",
            "kernel",
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
        let mut files = Vec::new();
        collect(&source, &mut files);
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
    assert!(wrong.is_empty(), "upward, or with no place in the lists: {wrong:#?}");
}

/// The most special of the layers that this is in.
fn layer(layers: &[&str], path: &[&str]) -> Option<usize> {
    let parts = |layer: &str| layer.split("::").count();
    let is_in =
        |layer: &str| layer.split("::").enumerate().all(|(at, part)| path.get(at) == Some(&part));
    let found = layers.iter().enumerate().filter(|(_, layer)| is_in(layer));
    found.max_by_key(|(_, layer)| parts(layer)).map(|(at, _)| at)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// All paths that begin with `crate`, without it, and what is used of the module's parents; but for those of tests,
/// which are at a file's end, and of comments.
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

/// A line's `use super::` as that of a path from `crate`: of the file's own module, that is not indented.
fn from_root(line: &str, module: &[&str]) -> String {
    let Some(mut path) = line.strip_prefix("use super::") else { return line.to_owned() };
    let mut parents = module.split_last().map_or(module, |(_, parents)| parents);
    while let Some(rest) = path.strip_prefix("super::") {
        path = rest;
        parents = parents.split_last().map_or(parents, |(_, parents)| parents);
    }
    format!("use {}::{path}", [&["crate"], parents].concat().join("::"))
}

/// Reads a use tree (Reference, "Use declarations"); what follows it.
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
