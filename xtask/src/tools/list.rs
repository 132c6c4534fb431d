//! The tools, by the command that needs them.

use crate::exec;

use super::{Source, Tool, cargo_runs, go_fetches_itself, on_path, venv_works};

/// The tools of `cargo xtask test`.
pub(crate) const TESTS: [Tool; 11] =
    [ROOT, PYTHON, GO, JAVA, NODE, TSHARK, PROMETHEUS, CHROMIUM, PROXIES, ETCD, NFTABLES];

/// The tools of `cargo xtask check-deploy`.
pub(crate) const DEPLOYMENT: [Tool; 6] = [PYTHON, GO, PROMETHEUS, SYSTEMD, MANDOC, CARGO_DEB];

/// The tools that only `cargo xtask ci` needs.
pub(crate) const CI: [Tool; 4] = [RUSTFMT, CLIPPY, CXX, GIT];

const ROOT: Tool = Tool {
    name: "root or sudo",
    needed_by: "the end-to-end tests",
    check: || exec::as_root().map(drop),
    // Without root it cannot be installed either, and is listed.
    install: Source::Packages(&["sudo"]),
    seconds: 5,
};

const PYTHON: Tool = Tool {
    name: "python3 with venv",
    needed_by: "tests with grpcio peers, and the checks of the Dockerfile and Kubernetes objects",
    check: venv_works,
    install: Source::Packages(&["python3", "python3-venv"]),
    seconds: 15,
};

const GO: Tool = Tool {
    name: "Go",
    needed_by: "tests with grpc-go peers or a Collector, and the checks of the dashboards and the Helm chart",
    check: go_fetches_itself,
    install: Source::Packages(&["golang-go"]),
    seconds: 30,
};

const JAVA: Tool = Tool {
    name: "a JDK and Maven",
    needed_by: "tests with grpc-java peers",
    check: || on_path(&["java", "javac", "mvn"]),
    install: Source::Packages(&["default-jdk-headless", "maven"]),
    seconds: 60,
};

const NODE: Tool = Tool {
    name: "Node.js and npm",
    needed_by: "tests with grpc-js peers",
    check: || on_path(&["node", "npm"]),
    install: Source::Packages(&["nodejs", "npm"]),
    seconds: 60,
};

const TSHARK: Tool = Tool {
    name: "tshark and tcpdump",
    needed_by: "the comparisons with tshark",
    check: || on_path(&["tshark", "tcpdump"]),
    install: Source::Packages(&["tshark", "tcpdump"]),
    seconds: 30,
};

const PROMETHEUS: Tool = Tool {
    name: "Prometheus",
    needed_by: "tests with a real Prometheus, and the checks of its rules",
    check: || on_path(&["prometheus", "promtool"]),
    install: Source::Packages(&["prometheus"]),
    seconds: 20,
};

const CHROMIUM: Tool = Tool {
    name: "Chromium and its driver",
    needed_by: "tests of the page in a browser",
    check: || on_path(&["chromium", "chromedriver"]),
    install: Source::Packages(&["chromium", "chromium-driver"]),
    seconds: 60,
};

const PROXIES: Tool = Tool {
    name: "nginx, HAProxy, nghttpx and Caddy",
    needed_by: "tests with a proxy between client and server",
    check: || on_path(&["nginx", "haproxy", "nghttpx", "caddy"]),
    install: Source::Packages(&["nginx", "haproxy", "nghttp2-proxy", "caddy"]),
    seconds: 20,
};

const NFTABLES: Tool = Tool {
    name: "nft and ip",
    needed_by: "tests with address translation between client and server",
    check: || on_path(&["nft", "ip"]),
    install: Source::Packages(&["nftables", "iproute2"]),
    seconds: 10,
};

const ETCD: Tool = Tool {
    name: "etcd",
    needed_by: "the comparison with etcd's own counters",
    check: || on_path(&["etcd"]),
    install: Source::Packages(&["etcd-server"]),
    seconds: 10,
};

const SYSTEMD: Tool = Tool {
    name: "systemd-analyze",
    needed_by: "the check of the systemd unit",
    check: || on_path(&["systemd-analyze"]),
    install: Source::Packages(&["systemd"]),
    seconds: 15,
};

const MANDOC: Tool = Tool {
    name: "mandoc",
    needed_by: "the check of the manual page",
    check: || on_path(&["mandoc"]),
    install: Source::Packages(&["mandoc"]),
    seconds: 10,
};

pub(crate) const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    needed_by: "building the Debian package",
    check: || on_path(&["cargo-deb"]),
    install: Source::Crate("cargo-deb", "3.8.0"),
    seconds: 90,
};

pub(crate) const CARGO_CYCLONEDX: Tool = Tool {
    name: "cargo-cyclonedx",
    needed_by: "a release's bill of materials",
    check: || on_path(&["cargo-cyclonedx"]),
    install: Source::Crate("cargo-cyclonedx", "0.5.9"),
    seconds: 90,
};

const RUSTFMT: Tool = Tool {
    name: "rustfmt",
    needed_by: "the check of the formatting",
    check: || cargo_runs("fmt"),
    install: Source::Component("rustfmt", "rustfmt-web"),
    seconds: 10,
};

const CLIPPY: Tool = Tool {
    name: "clippy",
    needed_by: "the lints",
    check: || cargo_runs("clippy"),
    install: Source::Component("clippy", "rust-web-clippy"),
    seconds: 10,
};

/// libFuzzer is in C++.
const CXX: Tool = Tool {
    name: "a C++ compiler",
    needed_by: "fuzzing",
    check: || on_path(&["c++"]),
    install: Source::Packages(&["g++"]),
    seconds: 20,
};

const GIT: Tool = Tool {
    name: "git",
    needed_by: "the first run in a fresh clone",
    check: || on_path(&["git"]),
    install: Source::Packages(&["git"]),
    seconds: 15,
};
