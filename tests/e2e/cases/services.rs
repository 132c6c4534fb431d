//! The names of the services that processes belong to.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::daemon::{Daemon, User};
use support::openmetrics::{Labels, Metrics, label};
use support::peer::{Client, Listen, Server};
use support::prometheus::{self, Prometheus, Sample, scrape_of};
use support::raw::process::Start;
use support::raw::talk::Role::{Client as Calling, Server as Serving};
use support::raw::{Address, Talk};
use support::stack::Stack;

use super::privileges::has_only_capabilities;
use super::{NOT_FOUND, OK, Table, UNAVAILABLE};
use crate::case::Case;

/// Time for series to follow the calls.
const LIMIT: Duration = Duration::from_secs(10);

/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`.
const READS_ENVIRONMENTS: u64 = 1 << 19 | 1 << 2;

pub(super) fn add(table: &mut Table) {
    table.alone("the service of a process, by its environment and by --service-name", named);
    table.alone("--by service: series go on over restarts, and end after the last", by_service);
    table.alone("the service of a process whose environment is not readable", not_readable);
    let cgroups = super::processes::cgroups();
    table.alone_if(cgroups.is_some(), "the service of a process in a container", move |name| {
        in_containers(name, &cgroups.context("no control groups to be in")?)
    });
}

/// The details of a process.
fn details(metrics: &Metrics, pid: &str) -> Result<Labels> {
    let of = [("pid", pid)];
    let mut series = metrics.series_with("observer_process_info", &of);
    series.next().map(|(labels, _)| labels.clone()).context("no details of a process")
}

/// An error if the name of a process's service is not `want`. A systemd unit, if the tests run in one, has precedence
/// over what a process runs.
fn expect_name(metrics: &Metrics, pid: &str, want: &str) -> Result<()> {
    let labels = details(metrics, pid)?;
    let unit = label(&labels, "systemd_unit").strip_suffix(".service");
    let unit = unit.map(|unit| unit.split('@').next().unwrap_or_default());
    let want = unit.filter(|unit| *unit != "user").unwrap_or(want);
    let name = label(&labels, "service");
    ensure!(name == want, "process {pid} is of the service {name:?}, not {want:?}: {labels:?}");
    Ok(())
}

/// The environment names the server's service, and the flag the client's; the lines of failed calls have the names.
fn named(name: &str) -> Result<()> {
    let flags = ["--service-environment", "--service-name", "raw-c*=callers,x=y", "--log-errors"];
    let daemon = Daemon::start(&[&flags[..], &["--labels", "service"]].concat())?;
    has_only_capabilities(&daemon, READS_ENVIRONMENTS)?;
    let attributes = "OTEL_RESOURCE_ATTRIBUTES=service.name=no,service.namespace=sho%70";
    let server = Start::through(&["env", "OTEL_SERVICE_NAME=orders\u{202e}", attributes]);
    let ends = [&Start::named("raw-caller")?, &server];
    let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
    talk.expected_call(1, "Get", OK)?;
    // A scrape waits until the processes have been looked up.
    talk.compare()?;
    talk.expected_call(3, "Get", NOT_FOUND)?;
    talk.compare()?;
    let metrics = daemon.scrape()?;
    let (client, server) = (talk.pid(Calling)?, talk.pid(Serving)?);
    let mut names = Vec::new();
    for (family, pid, service, namespace) in [
        ("grpc_client_handled_total", &client, "callers", ""),
        ("grpc_server_handled_total", &server, "orders\\xe2\\x80\\xae", "shop"),
    ] {
        let known = [("pid", &**pid), ("service", service)];
        ensure!(metrics.count(family, &known) == 2, "not two series of {family} with {known:?}");
        let labels = details(&metrics, pid)?;
        ensure!(label(&labels, "service_namespace") == namespace, "{labels:?}");
        let id = label(&labels, "service_instance_id");
        ensure!(id.len() == 36 && !names.contains(&id.to_owned()), "the id of {pid} is {id:?}");
        names.push(id.to_owned());
    }
    daemon.wait_until(|_| {
        let lines = daemon.output();
        let lines = lines.lines().map(|line| Ok(serde_json::from_str(line)?));
        let name =
            |line: Value| line.get("service_name").and_then(Value::as_str).map(str::to_owned);
        let mut names: Vec<String> = lines
            .map(|line: Result<Value>| Ok(name(line?).unwrap_or_default()))
            .collect::<Result<_>>()?;
        names.sort_unstable();
        ensure!(names == ["callers", "orders\\xe2\\x80\\xae"], "lines of {names:?}");
        Ok(())
    })?;
    talk.finish()
}

/// A daemon without the capabilities goes on with what the process runs, and says why.
fn not_readable(name: &str) -> Result<()> {
    let daemon = Daemon::start_as(
        &["--service-environment"],
        User::With(&["bpf", "perfmon", "dac_read_search"]),
    )?;
    daemon.wait_for_log("--service-environment has no effect on other users' processes", 1..=1)?;
    let server = Start::through(&["env", "OTEL_SERVICE_NAME=orders"]);
    let ends = [&Start::default(), &server];
    let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
    talk.expected_call(1, "Get", OK)?;
    talk.compare()?;
    expect_name(&daemon.scrape()?, &talk.pid(Serving)?, "raw-peer")?;
    talk.finish()
}

/// A file of a container's runtime, and what is in it; `ID` stands for the container's id.
struct State {
    group: &'static str,
    file: &'static str,
    text: &'static str,
    /// The service, and its namespace.
    service: [&'static str; 2],
}

const STATES: [State; 4] = [
    State {
        group: "docker-ID.scope",
        file: "/var/lib/docker/containers/ID/config.v2.json",
        text: r#"{"StreamConfig":{},"State":{"Running":true,"Pid":1},"ID":"ID","Config":{"Image":"team/x:1",
            "Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"orders"}},
            "Image":"sha256:35d7","NetworkSettings":{"Networks":{}},"Name":"/shop-orders-1"}"#,
        service: ["orders", ""],
    },
    State {
        group: "cri-containerd-ID.scope",
        file: "/run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
        text: r#"{"ociVersion":"1.2.0","process":{"args":["/app"]},"annotations":{
            "io.kubernetes.cri.container-name":"stock","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"registry/stock:2","io.kubernetes.cri.sandbox-namespace":"prod"}}"#,
        service: ["stock", "prod"],
    },
    State {
        group: "crio-ID.scope",
        file: "/run/containers/storage/overlay-containers/ID/userdata/config.json",
        text: r#"{"ociVersion":"1.2.0","annotations":{"io.kubernetes.container.name":"mail",
            "io.kubernetes.pod.namespace":"prod","io.kubernetes.cri-o.ImageName":"registry/mail:2"}}"#,
        service: ["mail", "prod"],
    },
    State {
        group: "libpod-ID.scope",
        file: "/var/lib/containers/storage/overlay-containers/containers.json",
        text: r#"[{"id":"ID","names":["happy_turing"],"metadata":"{\"image-name\":\"quay.io/team/payment:latest\"}"}]"#,
        service: ["payment", ""],
    },
];

/// The files of four runtimes name the services of processes in their containers, if the daemon may read them.
fn in_containers(name: &str, cgroups: &Path) -> Result<()> {
    let mut commands =
        vec!["for folder in /run /var/lib; do mount -t tmpfs none $folder; done".to_owned()];
    // As the runtimes do, for root only.
    commands.push("umask 077".into());
    let mut groups = Vec::new();
    for (number, State { group, file, text, .. }) in STATES.iter().enumerate() {
        let id = format!("{:060x}{number:04x}", std::process::id());
        let [group, file, text] = [group, file, text].map(|of| of.replace("ID", &id));
        let folder = Path::new(&file).parent().context("a folder")?.display();
        commands.push(format!("mkdir -p {folder}\ncat >{file} <<'END'\n{text}\nEND"));
        groups.push(cgroups.join(group));
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let daemon = Daemon::start_after(&commands, &["--service-environment"])?;
    let without = Daemon::start_after(&commands, &[])?;
    for group in &groups {
        fs::create_dir(group).with_context(|| format!("create {}", group.display()))?;
    }
    for (states, groups) in STATES.chunks(2).zip(groups.chunks(2)) {
        let [client, server] = groups else { bail!("not two groups") };
        let ends = [&Start::in_group(client), &Start::in_group(server)];
        let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
        talk.expected_call(1, "Get", OK)?;
        talk.compare()?;
        let (metrics, others) = (daemon.scrape()?, without.scrape()?);
        for (state, pid) in states.iter().zip([talk.pid(Calling)?, talk.pid(Serving)?]) {
            let labels = details(&metrics, &pid)?;
            let service = ["service", "service_namespace"].map(|name| label(&labels, name));
            ensure!(service == state.service, "{service:?} is not {:?}: {labels:?}", state.service);
            let labels = details(&others, &pid)?;
            let service = label(&labels, "service");
            ensure!(service == "raw-peer", "a daemon that may not read it says {service}");
        }
        talk.end_peers()?;
        talk.finish_closed()?;
    }
    for group in &groups {
        fs::remove_dir(group).with_context(|| format!("remove {}", group.display()))?;
    }
    Ok(())
}

/// Processes that start and end one after the other have one series, which never goes back, also when their own figures
/// are dropped. It ends some time after the last of them.
fn by_service(name: &str) -> Result<()> {
    const TTL: u64 = 14;
    let ttl = TTL.to_string();
    let names = "raw-caller=callers,raw-orders=orders";
    let flags = ["--by", "service", "--service-name", names, "--series-ttl", &ttl];
    // Each connection may be another worker's.
    let more = ["--comm", "raw-orders,raw-caller", "--workers", "4"];
    let daemon = Daemon::start(&[&flags[..], &more].concat())?;
    let mut sums = [0.0; 2];
    // Values of both sides, as of one scrape. A counter never goes back.
    let mut look = || -> Result<[f64; 2]> {
        let metrics = daemon.scrape()?;
        for (role, last) in ["server", "client"].into_iter().zip(&mut sums) {
            let service = if role == "server" { "orders" } else { "callers" };
            let labels = [("service", service), ("service_namespace", ""), ("grpc_code", "OK")];
            let family = format!("grpc_{role}_handled_total");
            let values = metrics.values(&family, &labels);
            ensure!(values.len() <= 1, "several series of {family}: {values:?}");
            let pids = metrics.label_values(&family, "pid");
            ensure!(pids.iter().all(|pid| pid.is_empty()), "series with pids: {pids:?}");
            let now = values.first().copied().unwrap_or(0.0);
            ensure!(now >= *last, "{family} has gone back from {last} to {now}");
            *last = now;
        }
        Ok(sums)
    };
    let mut wait_for = |calls: f64| {
        let begin = Instant::now();
        while look()? != [calls; 2] {
            ensure!(begin.elapsed() < LIMIT, "not {calls} calls: {:?}", look()?);
            sleep(Duration::from_millis(100));
        }
        Ok::<(), anyhow::Error>(())
    };
    // Longer than a process keeps its own figures.
    for calls in 1..=12 {
        let ends = [&Start::named("raw-caller")?, &Start::named("raw-orders")?];
        let mut talk = Talk::begin_from(&daemon, name, Address::V4(0), ends)?;
        talk.call(1, "Get", OK)?;
        wait_for(f64::from(calls))?;
        talk.end_peers()?;
    }
    let ended = Instant::now();
    let series =
        || Ok::<_, anyhow::Error>(daemon.scrape()?.series("grpc_server_handled_total").count());
    while series()? > 0 {
        ensure!(ended.elapsed() < Duration::from_secs(TTL) + LIMIT, "the series do not end");
        sleep(Duration::from_millis(200));
    }
    let age = ended.elapsed();
    ensure!(age >= Duration::from_secs(TTL - 1), "the series ended after {age:?}");
    daemon.stop()
}

/// The value of the only sample.
fn only(samples: &[Sample]) -> Result<f64> {
    let [sample] = samples else { bail!("not one sample: {samples:?}") };
    Ok(sample.value)
}

/// A service that ends every two seconds after ten failed calls: Prometheus counts all of them.
pub(crate) fn crashes() -> Result<Case> {
    let case = Case::new("Prometheus: the errors of a service that crashes all the time", || {
        const CRASHES: u32 = 8;
        const ERRORS: u32 = 10;
        let flags = ["--by", "service", "--service-name", "raw-crashing=crashing"];
        let daemon = Daemon::start(&[&flags[..], &["--comm", "raw-crashing"]].concat())?;
        let prometheus = Prometheus::start(&scrape_of(&daemon), &[], ("", ""), &[])?;
        let series = "grpc_server_handled_total{service=\"crashing\",grpc_code=\"Unavailable\",\
                      grpc_method=\"Get\"}";
        let crash = |method: &str, errors: u32| -> Result<()> {
            let ends = [&Start::default(), &Start::named("raw-crashing")?];
            let mut talk = Talk::begin_from(&daemon, "crashing", Address::V4(0), ends)?;
            (0..errors).try_for_each(|call| talk.call(2 * call + 1, method, UNAVAILABLE))?;
            sleep(Duration::from_secs(2));
            talk.peer(Serving)?.kill()?;
            talk.end_peers()
        };
        // The service has failed before, with another method. This one has only succeeded.
        crash("Other", 1)?;
        let ends = [&Start::default(), &Start::named("raw-crashing")?];
        let mut talk = Talk::begin_from(&daemon, "crashing", Address::V4(0), ends)?;
        talk.call(1, "Get", OK)?;
        prometheus.wait_until(|prometheus| {
            let value = only(&prometheus.query(series, None)?)?;
            ensure!(value == 0.0, "{value}, not 0");
            Ok(())
        })?;
        let begin = Instant::now();
        talk.end_peers()?;
        for _ in 0..CRASHES {
            crash("Get", ERRORS)?;
        }
        let errors = f64::from(CRASHES * ERRORS);
        let end = prometheus.wait_until(|prometheus| {
            let seen = only(&prometheus.query(series, None)?)?;
            ensure!(seen == errors, "{seen} errors, not {errors}");
            only(&prometheus.query("vector(time())", None)?)
        })?;
        let range = begin.elapsed().as_secs() + 2;
        let one = |query: String| only(&prometheus.query(&query, Some(end))?);
        ensure!(one(format!("resets({series}[{range}s])"))? == 0.0, "the counter has gone back");
        // Prometheus extrapolates to the ends of the range, by less than an interval of scrapes at each.
        let increase = one(format!("increase({series}[{range}s])"))?;
        let most = errors * (1.0 + 2.0 / (range - 2) as f64);
        ensure!((errors..=most).contains(&increase), "{increase} errors, not {errors}");
        prometheus.is_content()?;
        prometheus.stop()?;
        daemon.stop()
    });
    Ok(case.only_if(prometheus::is_there()?))
}

/// The server's environment names its service; the client's service is what it runs.
pub(crate) fn processes_have_a_service(stack: &Stack, runs: &str) -> Result<()> {
    let daemon = Daemon::start(&["--service-environment"])?;
    let mut named = stack.clone();
    named.env.insert("OTEL_SERVICE_NAME".into(), "orders".into());
    let server = Server::start(&named, Listen::V4)?;
    // A process that ends at once may not be looked up.
    let plan = [vec![json!({"count": 3, "concurrency": 3, "sleep_ms": 1500})]];
    let (client, _) = Client::start(stack, &server, &plan)?.finish()?;
    daemon.wait_until(|metrics| {
        let labels = details(metrics, &server.pid())?;
        ensure!(label(&labels, "service") == "orders", "{labels:?}");
        expect_name(metrics, &client.pid.to_string(), runs)
    })?;
    server.stop()?;
    daemon.stop()
}
