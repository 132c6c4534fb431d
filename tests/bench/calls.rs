//! The cost of a call in the kernel and in the daemon, and whether each call is reported.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Peers;
use crate::figures::{Bound, Plot, Results};
use crate::load::{Client, Load, Made, Until};
use crate::service::Service;
use crate::watch::{Reading, Timed, Watch};

const REPEATS: usize = 5;

/// Makes calls, and measures the cost of watching them: both ends are watched, and both are counted.
pub(crate) fn watched(
    watch: &Watch,
    address: SocketAddr,
    load: Load,
    calls: u64,
) -> Result<(Made, Reading)> {
    let mut client = Client::connect(address, load.connections)?;
    let begin = watch.begin()?;
    let made = client.call(load, Until::Calls(calls))?;
    Ok((made, watch.since_ends(begin, 2.0 * made.calls as f64)?))
}

/// Measures time and bytes for each end of a unary call.
pub(crate) fn costs(peers: &Peers, results: &mut Results) -> Result<()> {
    const CALLS: u64 = 60_000;
    let service = Service::fast(peers)?;
    let load = Load::at_once(16);
    let (mut daemon, mut kernel, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let watch = Watch::start(&[])?;
        let (_, reading) = watched(&watch, service.address, load, CALLS)?;
        daemon.push(reading.cpu_ns / reading.ends / 1000.0);
        let timed = Timed::begin()?;
        let (_, reading) = watched(&watch, service.address, load, CALLS)?;
        kernel.push(reading.programs_ns / reading.ends / 1000.0);
        runs.push(reading.program_runs / reading.ends);
        drop(timed);
        watch.stop()?;
    }
    let us = |most| Some(Bound::AtMost(most));
    results.add("run time of BPF programs per finished call", "µs", us(1.5), kernel);
    results.add("invocations of BPF programs per finished call", "", None, runs);
    results.add("daemon's CPU time per finished call", "µs", us(2.0), daemon);
    sizes(&service, results)
}

fn sizes(service: &Service, results: &mut Results) -> Result<()> {
    let watch = Watch::start(&[])?;
    let mut of_size = Vec::new();
    for (name, payload, calls) in [("100 B", 100, 10_000), ("1 MiB", 1 << 20, 100)] {
        let load = Load { payload, streams: 1, ..Load::at_once(1) };
        let (_, reading) = watched(&watch, service.address, load, calls)?;
        let bytes = reading.ring_bytes / reading.ends;
        results.add(
            format!("ring bytes per finished call, messages of {name}"),
            "B",
            Some(Bound::AtMost(400.0)),
            vec![bytes],
        );
        let records = vec![reading.records / reading.ends];
        results.add(format!("records per finished call, messages of {name}"), "", None, records);
        of_size.push(bytes);
    }
    if let [small, large] = of_size[..] {
        let apart = Some(Bound::AtMost(1.05));
        results.add("ring bytes, messages of 1 MiB ÷ of 100 B", "", apart, vec![large / small]);
    }
    watch.stop()
}

/// Measures many small messages over few streams.
pub(crate) fn streaming(peers: &Peers, results: &mut Results) -> Result<()> {
    const STREAMS: usize = 4;
    const MESSAGES: u64 = 250_000;
    let (stack, service) = (peers.stack("tonic")?, Service::fast(peers)?);
    let (mut daemon, mut kernel, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let plan = [vec![json!({
        "rpc": "ClientStream", "requests": MESSAGES, "payload": 10, "count": STREAMS,
        "concurrency": STREAMS,
    })]];
    for _ in 0..REPEATS {
        let watch = Watch::start(&[])?;
        let begin = watch.begin()?;
        let timed = Timed::begin()?;
        support::peer::Client::start(&stack, &service.server, &plan)?.finish()?;
        drop(timed);
        let reading = watch.since_ends(begin, 2.0 * STREAMS as f64)?;
        // At both ends, with a response for each stream.
        let all = 2.0 * STREAMS as f64 * (MESSAGES as f64 + 1.0);
        ensure!(reading.messages.total_cmp(&all).is_eq(), "{} of {all} messages", reading.messages);
        daemon.push(reading.cpu_ns / all);
        kernel.push(reading.programs_ns / all);
        bytes.push(reading.ring_bytes / all);
        watch.stop()?;
    }
    let most = |most| Some(Bound::AtMost(most));
    results.add("daemon's CPU time per message of 20 B", "ns", most(150.0), daemon);
    results.add("run time of BPF programs per message of 20 B", "ns", None, kernel);
    results.add("ring bytes per message of 20 B", "B", most(4.0), bytes);
    Ok(())
}

/// Measures the share of calls that are reported with method and code.
pub(crate) fn completeness(peers: &Peers, results: &mut Results) -> Result<()> {
    let service = Service::fast(peers)?;
    let share = |watch: &Watch, load: Load, calls: u64| -> Result<(f64, f64)> {
        let (made, reading) = watched(watch, service.address, load, calls)?;
        Ok((reading.complete / (2.0 * made.calls as f64), made.per_second()))
    };
    let watch = Watch::start(&[])?;
    for at_once in [1, 4, 16, 64, 256, 1024] {
        let (seen, rate) = share(&watch, Load::at_once(at_once), 5000 * at_once.min(16) as u64)?;
        let name = format!("calls seen ÷ made, {at_once} at once ({rate:.0} calls/s)");
        results.add(name, "", Some(Bound::AtLeast(1.0)), vec![seen]);
    }
    for (connections, streams) in [(1, 1000), (10, 1000), (100, 100), (1000, 10), (10_000, 1)] {
        let load = Load { connections, streams, ..Load::ONE };
        let (seen, _) = share(&watch, load, 100_000)?;
        let name = format!("calls seen ÷ made, {connections} connections, {streams} streams each");
        results.add(name, "", Some(Bound::AtLeast(1.0)), vec![seen]);
    }
    watch.stop()?;
    let (mut points, mut line) = (Vec::new(), Vec::new());
    for kib in [64, 128, 256, 1024, 8192] {
        let watch = Watch::start(&["--ring-size", &format!("{kib}KiB")])?;
        let (seen, rate) = share(&watch, Load::at_once(64), 100_000)?;
        let name =
            format!("calls seen ÷ made, a ring of {kib} KiB, 64 at once ({rate:.0} calls/s)");
        line.push(results.add(name, "", None, vec![seen]));
        points.push(format!("{kib} KiB"));
        watch.stop()?;
    }
    results.plots.push(Plot {
        name: "completeness".into(),
        title: "Calls seen ÷ made, by the size of the ring".into(),
        x: "ring".into(),
        y: "seen ÷ made".into(),
        points,
        lines: vec![("64 calls at once".into(), line)],
    });
    Ok(())
}

/// Measures whether the cost of a call depends on how many others there are.
pub(crate) fn growth(peers: &Peers, results: &mut Results) -> Result<()> {
    let service = Service::fast(peers)?;
    let loads = |loads: [(usize, usize, usize); 4]| {
        loads.map(|(connections, streams, methods)| Load {
            connections,
            streams,
            methods,
            ..Load::ONE
        })
    };
    let of_connections = loads([(10, 2, 0), (100, 1, 0), (1000, 1, 0), (MOST, 1, 0)]);
    let of_methods = loads([(2, 8, 10), (2, 8, 100), (2, 8, 1000), (2, 8, MOST)]);
    for (what, loads) in [("connections", of_connections), ("methods", of_methods)] {
        let (mut daemon, mut kernel) = (Vec::new(), Vec::new());
        let mut points = Vec::new();
        for load in loads {
            let count = load.connections.max(load.methods);
            let mut add = |which: &str, costs: &[Cost]| {
                let mut add = |whose, part: fn(&Cost) -> f64| {
                    let name = format!("{count} {what}: {whose} per {which}finished call");
                    results.add(name, "µs", None, costs.iter().map(part).collect())
                };
                let daemon = add("daemon's CPU time", |cost| cost.daemon);
                (daemon, add("run time of BPF programs", |cost| cost.kernel))
            };
            let costs = (0..GROWTH_REPEATS).map(|_| grown(&service, load, count));
            let (first, later): (Vec<_>, Vec<_>) =
                costs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            // With fewer it is mostly the cost of an idle daemon.
            if count == MOST {
                add("first ", &first);
            }
            let (daemons, kernels) = add("", &later);
            daemon.push(daemons);
            kernel.push(kernels);
            points.push(count.to_string());
        }
        let ends = |costs: &[f64]| Some(costs.last()? / costs.first()?);
        for (whose, costs) in
            [("daemon's CPU time", &daemon), ("run time of BPF programs", &kernel)]
        {
            let name = format!("{MOST} {what} ÷ 10: {whose} per finished call");
            results.add(name, "", FLAT, ends(costs).into_iter().collect());
        }
        results.plots.push(Plot {
            name: format!("growth-{what}"),
            title: format!("Cost of a finished call, by the number of {what}"),
            x: what.into(),
            y: "µs".into(),
            points,
            lines: vec![("daemon".into(), daemon), ("BPF programs".into(), kernel)],
        });
    }
    workers(&service, results)
}

const GROWTH_REPEATS: usize = 3;

/// The bound of a ratio that must not grow.
const FLAT: Option<Bound> = Some(Bound::AtMost(1.1));

/// The most connections or methods.
const MOST: usize = 10_000;

/// The cost of an end of a call, in µs.
struct Cost {
    daemon: f64,
    kernel: f64,
}

impl Cost {
    fn of(reading: &Reading) -> Self {
        let per_end = |ns: f64| ns / reading.ends / 1000.0;
        Self { daemon: per_end(reading.cpu_ns), kernel: per_end(reading.programs_ns) }
    }
}

/// The cost of the first calls, one for each of `count` connections or methods, and that of later calls.
fn grown(service: &Service, load: Load, count: usize) -> Result<(Cost, Cost)> {
    const CALLS: u64 = 40_000;
    let watch = Watch::start(&["--max-methods", "20000", "--buckets", "1"])?;
    let mut client = Client::connect(service.address, load.connections)?;
    let _timed = Timed::begin()?;
    let mut cost = |calls: u64| -> Result<Cost> {
        let begin = watch.begin()?;
        let made = client.call(load, Until::Calls(calls))?;
        Ok(Cost::of(&watch.since_ends(begin, 2.0 * made.calls as f64)?))
    };
    let costs = (cost(count.max(load.connections * load.streams) as u64)?, cost(CALLS)?);
    watch.stop()?;
    Ok(costs)
}

/// Measures the cost of more workers where one would suffice, in turns with one.
fn workers(service: &Service, results: &mut Results) -> Result<()> {
    const CALLS: u64 = 60_000;
    let load = Load { connections: 16, streams: 2, ..Load::ONE };
    let cost = |workers: &str| -> Result<Cost> {
        let watch = Watch::start(&["--workers", workers])?;
        let timed = Timed::begin()?;
        let (_, reading) = watched(&watch, service.address, load, CALLS)?;
        drop(timed);
        watch.stop()?;
        Ok(Cost::of(&reading))
    };
    for workers in ["2", "4", "8"] {
        let (mut daemon, mut kernel) = (Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let (one, more) = (cost("1")?, cost(workers)?);
            daemon.push(more.daemon / one.daemon);
            kernel.push(more.kernel / one.kernel);
        }
        let name = |what| format!("{workers} workers ÷ 1: {what} per finished call");
        results.add(name("daemon's CPU time"), "", FLAT, daemon);
        results.add(name("run time of BPF programs"), "", FLAT, kernel);
    }
    Ok(())
}
