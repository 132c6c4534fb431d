use std::collections::HashMap;
use std::io::Write as _;

use clap::Arg;
use tempfile::NamedTempFile;

use super::*;
use crate::top::{Access, Password};

fn run(args: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, String> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let args: Vec<OsString> =
        std::iter::once("observer").chain(args.iter().copied()).map(OsString::from).collect();
    parse_from(&args, &Variables(variables)).map_err(|error| error.to_string())
}

struct Variables<'a>(HashMap<&'a str, &'a str>);

impl Environment for Variables<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(ToString::to_string).collect()
    }
}

fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
    run(args, variables).expect("valid").config
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn with_file(text: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let file = file(text);
    let path = file.path().to_str().expect("UTF-8");
    run(&[args, &["--config", path]].concat(), variables).map(|invocation| invocation.config)
}

/// A value other than the default, for every flag that is a setting, as TOML and as a flag's text.
const SETTINGS: [(&str, &str, &str); 41] = [
    ("port", "[50051, '8000-8100']", "50051,8000-8100"),
    ("protocol", "['grpc', 'thrift']", "grpc,thrift"),
    ("thrift-port", "[9090, '9100-9110']", "9090,9100-9110"),
    ("pid", "[4711, '4712']", "4711,4712"),
    ("comm", "['python3', 'greeter']", "python3,greeter"),
    ("uid", "[0, 1000]", "0,1000"),
    ("cgroup", "['a.service', 'b']", "b,a.service"),
    ("listen", "'[::1]:1'", "[::1]:1"),
    ("health-listen", "'unix:/run/h'", "unix:/run/h"),
    ("allow-host", "['node-7', 'gate.example']", "node-7,gate.example"),
    ("schema", "['python', 'requests']", "python,requests"),
    ("native-histograms", "true", "true"),
    ("created", "false", "false"),
    ("web-config-file", "'/w'", "/w"),
    ("buckets", "[0.5, 1, '2']", "0.5,1,2"),
    ("descriptor-set", "'/d'", "/d"),
    ("exclude", "['a.*', '*/B']", "*/B,/a.*"),
    ("by", "'service'", "service"),
    ("service-name", "['a*=b', 'c=d']", "a*=b,c=d"),
    ("service-environment", "true", "true"),
    ("service-graph", "true", "true"),
    ("peer-name", "['10.0.0.0/8=a', '::1=b']", "10.0.0.0/8=a,::1=b"),
    ("max-methods", "7", "7"),
    ("max-series", "9", "9"),
    ("labels", "['exe', 'pod_uid']", "pod_uid,exe"),
    ("series-ttl", "90", "90"),
    ("backend", "'kprobe'", "kprobe"),
    ("tls", "'auto'", "auto"),
    ("max-connections", "8", "8"),
    ("workers", "8", "8"),
    ("ring-size", "65536", "64KiB"),
    ("btf", "'/b'", "/b"),
    ("log", "'warn,observer=debug'", "warn,observer=debug"),
    ("run-as", "'prometheus'", "prometheus"),
    ("log-errors", "true", "true"),
    ("log-errors-rate", "7", "7"),
    ("log-errors-omit", "['message', 'peer']", "peer,message"),
    ("otlp-endpoint", "'http://a:4317'", "http://a:4317"),
    ("otlp-protocol", "'grpc'", "grpc"),
    ("otlp-watched", "['10.0.0.0/8', '::/0']", "10.0.0.0/8,::/0"),
    // It needs another filter.
    ("children", "true\npid = 1", "true"),
];

/// Values for the flags of the feature `kubernetes`.
const KUBERNETES: &[(&str, &str, &str)] = if cfg!(feature = "kubernetes") {
    &[
        ("kubernetes", "'http://[::1]:1'", "http://[::1]:1"),
        ("kubernetes-node", "'n'", "n"),
        ("kubernetes-token-file", "'/t'", "/t"),
        ("kubernetes-ca-file", "'/c'", "/c"),
        ("kubernetes-peers", "true", "true"),
    ]
} else {
    &[]
};

fn samples() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    SETTINGS.iter().chain(KUBERNETES)
}

#[test]
fn clap_finds_no_fault_in_the_definition() {
    command().debug_assert();
}

#[test]
fn no_flag_is_the_default_configuration() {
    assert_eq!(run(&[], &[]), Ok(Invocation { action: Action::Run, config: Config::default() }));
}

#[test]
fn every_flag_is_a_variable_and_a_key() {
    for flag in command().get_arguments().filter_map(Arg::get_long) {
        if ["config", "help", "version", "verbose"].contains(&flag) {
            continue;
        }
        let (_, toml, text) =
            samples().find(|setting| setting.0 == flag).expect("a sample in SETTINGS");
        // Some flags have an effect only with another one.
        let with = match flag {
            "children" => &["--pid=1"][..],
            "log-errors-rate" | "log-errors-omit" => &["--log-errors"],
            "peer-name" => &["--service-graph"],
            "thrift-port" => &["--protocol=thrift"],
            "otlp-protocol" | "otlp-watched" => &["--otlp-endpoint=http://a"],
            "kubernetes-peers" => {
                &["--kubernetes=http://127.0.0.1:1", "--kubernetes-node=n", "--service-graph"]
            }
            _ if flag.starts_with("kubernetes-") => &["--kubernetes=http://127.0.0.1:1"],
            _ => &[],
        };
        // The sample in the file already has it.
        let file_with = if flag == "children" { &[][..] } else { with };
        let by_flag = config(&[with, &[&format!("--{flag}={text}")]].concat(), &[]);
        let by_variable = config(with, &[(&layers::variable_name(flag), text)]);
        let by_file = with_file(&format!("{flag} = {toml}"), file_with, &[]).expect("valid");
        assert_ne!(by_flag, config(with, &[]), "--{flag} has no effect");
        assert_eq!(by_flag, by_variable, "--{flag} as a variable");
        assert_eq!(by_flag, by_file, "--{flag} as a key");
    }
}

#[test]
fn the_manual_has_all_in_one_page() {
    let page = String::from_utf8(manual().expect("rendered")).expect("text");
    for told in
        [".SS \"observer top\"", ".SS \"observer check\"", "\\-\\-once", "\\-\\-max\\-series"]
    {
        assert_eq!(page.matches(told).count().min(1), 1, "no {told} in:\n{page}");
    }
    // Flags are under their own headings, those of a subcommand under its heading.
    assert!(!page.contains(".SH OPTIONS"), "{page}");
    // There are no pages for subcommands.
    for subcommand in command().get_subcommands() {
        let reference = format!("observer\\-{}(", subcommand.get_name());
        assert!(!page.contains(&reference), "{reference} in:\n{page}");
    }
}

#[test]
fn every_flag_teaches() {
    for arg in command().get_arguments() {
        let flag = arg.get_long().expect("all flags are long");
        if ["help", "version", "verbose"].contains(&flag) {
            continue;
        }
        let short = arg.get_help().expect("help").to_string();
        assert_eq!(short.lines().count(), 1, "{flag}: {short}");
        let help = arg.get_long_help().expect("long help").to_string();
        let (_, example) = help.split_once("Example: --").expect(flag);
        assert!(example.contains(flag), "{flag}: the example is another flag's");
        assert!(help.contains(&format!("[env: {}]", layers::variable_name(flag))), "{flag}");
        assert!(help.contains("[default: "), "{flag}");
        assert!(help.split("\n\n").count() >= 4, "{flag}: summary, syntax, example, notes");
    }
    let help = run(&["--help"], &[]).expect_err("help");
    for text in ["observer check", "port is selected AND", "Unix sockets have no port"] {
        assert!(help.contains(text), "{text}");
    }
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let text = "port = 1\npid = 1\nlog = 'warn'";
    let variables = [("OBSERVER_PORT", "2"), ("OBSERVER_PID", "2")];
    let config = with_file(text, &["--port", "3"], &variables).expect("valid");
    assert_eq!(config.filter.ports.to_string(), "3");
    assert_eq!(config.filter.pids, [2]);
    assert_eq!(config.log.to_string(), "warn");
    assert_eq!(config.listen, Config::default().listen);
}

#[test]
fn flags_work_before_and_after_check() {
    let variables = [("OBSERVER_PORT", "2")];
    for args in [["--port", "1", "check"], ["check", "--port", "1"]] {
        let invocation = run(&args, &variables).expect("valid");
        assert_eq!(invocation.action, Action::Check);
        assert_eq!(invocation.config.filter.ports.to_string(), "1");
    }
    let invocation = run(&["check"], &variables).expect("valid");
    assert_eq!(invocation.config.filter.ports.to_string(), "2");
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let file = file("port = '1,2'");
    let path = file.path().to_str().expect("UTF-8");
    assert_eq!(config(&[], &[("OBSERVER_CONFIG", path)]).filter.ports.to_string(), "1-2");
}

#[test]
fn lists_repeat_and_each_entry_counts_once() {
    let config = config(&["--port", "2,1", "--port=3", "--pid", "9,8,9", "--comm", "b,a,b"], &[]);
    assert_eq!(config.filter.to_string(), "ports 1-3 of pid 8,9 or comm a,b");
    assert!(with_file("port = []\npid = ''", &[], &[]).expect("valid").filter.selects_all());
}

#[test]
fn children_can_be_undone() {
    let on = [("OBSERVER_CHILDREN", "1")];
    assert!(config(&["--pid=1"], &on).filter.children);
    assert!(!config(&["--pid=1", "--children=false"], &on).filter.children);
    assert!(config(&["--children", "--pid", "1"], &[]).filter.children);
    assert!(
        run(&["--children"], &[]).expect_err("whose").contains("--pid, --comm, --uid or --cgroup")
    );
}

#[test]
fn empty_variables_and_service_links_are_not_set() {
    let variables = [("OBSERVER_PORT", "tcp://10.0.0.1:9464"), ("OBSERVER_LISTEN", "")];
    assert_eq!(config(&[], &variables), Config::default());
}

/// As Kubernetes sets them for Services named observer, observer-page and max-observer.
#[test]
fn variables_of_services_are_none_of_ours() {
    let of_observer = [
        ("OBSERVER_SERVICE_HOST", "10.0.0.1"),
        ("OBSERVER_SERVICE_PORT", "9464"),
        ("OBSERVER_SERVICE_PORT_HTTP_METRICS", "9464"),
        ("OBSERVER_PORT", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("OBSERVER_PORT_9464_TCP_PROTO", "tcp"),
        ("OBSERVER_PORT_9464_TCP_PORT", "9464"),
        ("OBSERVER_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("OBSERVER_PORT_53_UDP_ADDR", "fd00::1"),
        ("OBSERVER_PAGE_SERVICE_HOST", "10.0.0.2"),
        ("OBSERVER_PAGE_PORT", "sctp://10.0.0.2:80"),
        ("OBSERVER_PAGE_PORT_80_SCTP", "sctp://10.0.0.2:80"),
        ("MAX_OBSERVER_PORTS", "1"),
        ("OBSERVERS", "1"),
    ];
    assert_eq!(config(&[], &of_observer), Config::default());
    let of_all = [&of_observer[..], &[("OBSERVER_LISTEN", "[::1]:1")]].concat();
    assert_eq!(config(&[], &of_all).listen.port(), 1);
}

#[test]
fn variables_that_are_of_no_flag_are_mistakes() {
    for (variable, value, told) in [
        ("OBSERVER_PORTS", "50051", "did you mean OBSERVER_PORT?"),
        ("OBSERVER_LOG_ERROR", "true", "did you mean OBSERVER_LOG_ERRORS?"),
        ("OBSERVER_MAX_SERIE", "1", "did you mean OBSERVER_MAX_SERIES?"),
        ("OBSERVER_ZZZ", "1", "unset it"),
        ("OBSERVER_", "1", "unset it"),
        ("OBSERVER_HELP", "1", "unset it"),
        ("OBSERVER_PAGE_PORT", "80", "is not a setting"),
        ("OBSERVER_PORT_X_TCP", "1", "is not a setting"),
        ("OBSERVER_PORT_80_TCP_X", "1", "is not a setting"),
    ] {
        for args in [&[][..], &["check"], &["top"]] {
            assert_mistake(run(args, &[(variable, value)]), &[variable, told]);
        }
    }
    assert_eq!(
        config(&[], &[("OBSERVER_PORTS", ""), ("OBSERVER_PASSWORD", "x")]),
        Config::default()
    );
    assert!(run(&["--help"], &[("OBSERVER_ZZZ", "1")]).expect_err("help").contains("--port"));
}

/// One line, exit code 2, and what the user needs to find the place.
fn assert_mistake(outcome: Result<impl std::fmt::Debug, String>, told: &[&str]) {
    let error = outcome.expect_err("a mistake");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(error.starts_with("error: ") && error.ends_with('\n'), "{error}");
    for part in told {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn mistakes_in_flags_are_told_in_one_line() {
    assert_mistake(run(&["--port", "70000"], &[]), &["'70000'", "--port <PORT>", "1 to 65535"]);
    assert_mistake(run(&["--prot", "1"], &[]), &["'--prot'", "'--port'"]);
    assert_mistake(run(&["--backend", "ebpf"], &[]), &["auto, socket, fentry, kprobe, tracepoint"]);
    assert_mistake(run(&["--buckets", "2,1"], &[]), &["--buckets", "increasing"]);
    assert_mistake(run(&["--schema", "gopher"], &[]), &["--schema", "go, python"]);
    assert_mistake(run(&["--schema", "go,python"], &[]), &["--schema", "grpc_type", "UNARY"]);
    assert_mistake(run(&["--protocol", "thrift,connect"], &[]), &["--protocol", "grpc,connect"]);
    assert_mistake(run(&["--thrift-port", "9090"], &[]), &["--thrift-port", "grpc,thrift"]);
    assert_mistake(run(&["--max-methods", "0"], &[]), &["--max-methods", "1..=100000"]);
    assert_mistake(run(&["--listen"], &[]), &["--listen <ADDRESS:PORT>"]);
    assert_mistake(run(&["chekc"], &[]), &["check"]);
    assert_mistake(run(&["--port", "1", "--port", ""], &[]), &["--port <PORT>"]);
}

#[test]
fn mistakes_elsewhere_are_told_with_the_place() {
    let variable = run(&[], &[("OBSERVER_PORT", "1,0")]);
    assert_mistake(variable, &["'0'", "--port <PORT>", "variable OBSERVER_PORT"]);
    let children = run(&["--pid=1"], &[("OBSERVER_CHILDREN", "perhaps")]);
    assert_mistake(children, &["'perhaps'", "variable OBSERVER_CHILDREN"]);
    // A value from one place, a mistake in another: the error names the place of the mistake.
    let flag = with_file("port = 1", &["--pid", "0"], &[]);
    assert!(!flag.clone().expect_err("a mistake").contains("key"), "{flag:?}");

    assert_mistake(with_file("port = 'http'", &[], &[]), &["'http'", "the key 'port' in /"]);
    assert_mistake(with_file("prot = 1", &[], &[]), &["'prot'", "did you mean 'port'?", "/"]);
    assert_mistake(with_file("max_methods = 1", &[], &[]), &["did you mean 'max-methods'?"]);
    assert_mistake(with_file("zzz = 1", &[], &[]), &["'zzz'", "there are: port, protocol,"]);
    assert_mistake(with_file("config = 'x'", &[], &[]), &["cannot name another"]);
    assert_mistake(with_file("help = true", &[], &[]), &["'help' is not a setting"]);
    assert_mistake(with_file("listen = ['a', 'b']", &[], &[]), &["'listen'", "one value"]);
    assert_mistake(with_file("[port]\na = 1", &[], &[]), &["'port' is a table"]);
    assert_mistake(with_file("port = [[1]]", &[], &[]), &["'port' is a list of lists"]);
    assert_mistake(with_file("max-methods = true", &[], &[]), &["'true'", "'max-methods' in"]);
    assert_mistake(with_file("port = 1\nport = 2", &[], &[]), &["line 2"]);
    assert_mistake(with_file("\n\nport == 1", &[], &[]), &["line 3"]);
    assert_mistake(run(&["--config", "/nonexistent/x.toml"], &[]), &["/nonexistent/x.toml"]);
}

#[test]
fn help_and_version_need_no_valid_file() {
    let variables = [("OBSERVER_CONFIG", "/nonexistent"), ("OBSERVER_LISTEN", "[::1]:1")];
    let help = run(&["--help"], &variables).expect_err("help");
    assert!(help.contains("[default: 127.0.0.1:9464]"), "help shows what is built in");
    let version = run(&["--version"], &variables).expect_err("version");
    assert_eq!(version, format!("observer {}\n", env!("CARGO_PKG_VERSION")));
    let verbose = run(&["--version", "--verbose"], &variables).expect_err("version");
    assert!(verbose.contains("BPF object: sha256:"), "{verbose}");
    assert!(run(&["--verbose"], &variables).is_err(), "alone it means nothing");
}

#[test]
fn a_mistake_is_one_line_whatever_was_given() {
    for args in [["--config", "a\nb\u{1b}[2J"], ["--port", "1\r\n2"], ["--x\ny", ""]] {
        let text = run(&args, &[]).expect_err("a mistake");
        assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
    }
    let text = run(&[], &[("OBSERVER_LOG", "a\tb\n")]).expect_err("a mistake");
    assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
}

#[test]
fn a_password_is_of_a_user_and_from_a_file_or_the_environment() {
    let top = |args: &[&str], variables: &[(&str, &str)]| match run(
        &[&["top"], args].concat(),
        variables,
    )
    .expect("valid")
    .action
    {
        Action::Top(options) => options.access,
        action => panic!("{action:?}"),
    };
    let variables = [("OBSERVER_PASSWORD", "secret")];
    let given = Some(Password::Is("secret".into()));
    assert_eq!(top(&["--user", "ada"], &variables).password, given);
    assert_eq!(top(&[], &variables), Access::default());
    let file = Some(Password::File("/p".into()));
    assert_eq!(top(&["--user", "ada", "--password-file", "/p"], &variables).password, file);
    assert_eq!(top(&["--ca-file", "/c"], &[]).ca_file, Some("/c".into()));
    assert_mistake(run(&["top", "--password-file", "/p"], &[]), &["--user"]);
}
