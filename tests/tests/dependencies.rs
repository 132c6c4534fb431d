//! The dependencies, compared with deny.toml and with known security advisories: RustSec's database as of one day
//! (`tests/advisories`; `cargo xtask advisories` updates it). There is no access to the network, so the same sources
//! pass today and tomorrow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustsec::advisory::Informational;
use rustsec::report::Settings;
use rustsec::{Database, Lockfile, Report};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use spdx::{Expression, Licensee};

/// The workspaces, each with its own Cargo.lock.
const WORKSPACES: [&str; 2] = ["", "fuzz"];

/// The only source of dependencies besides this repository.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The part of deny.toml that is checked here; cargo-deny checks all of it.
#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Denied>,
}

#[derive(Deserialize)]
struct Denied {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// The part of cargo's metadata that is used here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    source: Option<String>,
}

#[test]
fn no_advisory_is_known_of_what_is_depended_on() {
    let database = Database::open(&root().join("tests/advisories")).unwrap();
    assert!(database.iter().count() > 0, "there are no advisories");
    let informational_warnings =
        vec![Informational::Notice, Informational::Unmaintained, Informational::Unsound];
    let settings = Settings { informational_warnings, ..Settings::default() };
    for workspace in WORKSPACES {
        let lockfile = Lockfile::load(root().join(workspace).join("Cargo.lock")).unwrap();
        let report = Report::generate(&database, &lockfile, &settings);
        let warnings = report.warnings.values().flatten();
        let warnings = warnings.map(|of| (&of.package, of.advisory.as_ref().map(|it| &it.id)));
        let found = report.vulnerabilities.list.iter();
        let found = found.map(|of| (&of.package, Some(&of.advisory.id))).chain(warnings);
        let found: Vec<_> = found
            .map(|(package, id)| format!("{} {}: {id:?}", package.name, package.version))
            .collect();
        assert!(found.is_empty(), "{workspace}/Cargo.lock: {found:#?}");
    }
}

/// Proves that the test above can find an advisory.
#[test]
fn an_advisory_is_found_where_there_is_one() {
    let database = Database::open(&root().join("tests/advisories")).unwrap();
    let oldest = "0.0.0".parse().unwrap();
    let advisory = database.iter().find(|advisory| advisory.versions.is_vulnerable(&oldest));
    let name = &advisory.unwrap().metadata.package;
    let lockfile = format!(
        "version = 4\n\n[[package]]\nname = \"{name}\"\nversion = \"{oldest}\"\nsource = \"{SOURCE}\"\n"
    );
    let report = Report::generate(&database, &lockfile.parse().unwrap(), &Settings::default());
    assert!(report.vulnerabilities.found, "{name}");
}

#[test]
fn dependencies_are_licensed_named_and_from_where_they_may_be() {
    let policy: Policy = toml(&root().join("deny.toml"));
    let allowed: Vec<Licensee> =
        policy.licenses.allow.iter().map(|license| Licensee::parse(license).unwrap()).collect();
    let mut wrong = Vec::new();
    // Without the fuzz targets, which are not distributed.
    for package in metadata().packages {
        let named = format!("{} {}", package.name, package.version);
        let mut say = |what: String| wrong.push(format!("{named}: {what}"));
        if let Some(source) = package.source.filter(|source| source != SOURCE) {
            say(format!("from {source}"));
        }
        let license = package.license.unwrap_or_default();
        let is_allowed =
            Expression::parse_mode(&license, spdx::ParseMode::LAX).is_ok_and(|license| {
                license.evaluate(|of| allowed.iter().any(|allowed| allowed.satisfies(of)))
            });
        if !is_allowed {
            say(format!("its license is not allowed: {license:?}"));
        }
        if let Some(denied) = policy.bans.deny.iter().find(|it| it.name == package.name) {
            say(denied.reason.clone());
        }
        for dependency in package.dependencies.iter().filter(|it| it.req == "*") {
            // Crates of the workspace have only one version.
            if dependency.source.is_some() {
                say(format!("depends on any version of {}", dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn metadata() -> Metadata {
    let arguments = ["metadata", "--locked", "--format-version", "1"];
    let targets = ["x86_64", "aarch64"].map(|arch| format!("{arch}-unknown-linux-gnu"));
    let filters = targets.iter().flat_map(|target| ["--filter-platform", target]);
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(filters)
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("what cargo tells")
}

fn toml<T: DeserializeOwned>(path: &Path) -> T {
    ::toml::from_str(&fs::read_to_string(path).expect("a file")).expect("it is TOML")
}

fn root() -> PathBuf {
    support::stack::workspace().expect("the tests are in a workspace")
}
