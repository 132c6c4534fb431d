//! Turns flags into a configuration. Checks what cannot be seen from the text of a single flag.

use super::Environment;
use super::flags::{Asked, Connections, Options, Top};
use crate::config::{Config, Filter, Protocols};
use crate::failures;
#[cfg(feature = "kubernetes")]
use crate::kubernetes;
use crate::metrics::{ExpositionConfig, Schema, Schemas};
use crate::otlp::{OtlpConfig, OtlpFlags};
use crate::top::{self, Access, Address, PASSWORD_VARIABLE, Password};
use observer_core::call::{CallProtocol, Relatives};
#[cfg(feature = "kubernetes")]
use observer_core::edges::Addresses;
use observer_core::edges::Peers;
use observer_core::process::{Detail, Grouping};

impl Asked {
    /// The address and the credentials. The password is not on the command line, which every user of the machine can read.
    fn into_access(self, environment: &dyn Environment) -> (Option<Address>, Access) {
        let Self { address, ca_file, user, password_file, allow_plaintext_password } = self;
        let given = || environment.get(PASSWORD_VARIABLE)?.into_string().ok();
        let password = password_file.map(Password::File).or_else(|| given().map(Password::Is));
        let password = password.filter(|_| user.is_some());
        (address, Access { ca_file, user, password, plaintext: allow_plaintext_password })
    }
}

impl Top {
    /// The options of `observer top`.
    pub(super) fn into_options(self, environment: &dyn Environment) -> top::Options {
        let Self { asked, once, table: _, json, sort: order, filter } = self;
        let (address, access) = asked.into_access(environment);
        let once = once.then_some(format(json));
        top::Options { address, access, once, order, filter }
    }
}

impl Connections {
    /// The options of `observer connections`.
    pub(super) fn into_options(self, environment: &dyn Environment) -> top::ConnectionsOptions {
        let Self { asked, json } = self;
        let (address, access) = asked.into_access(environment);
        top::ConnectionsOptions { address, access, format: format(json) }
    }
}

fn format(json: bool) -> top::Format {
    if json { top::Format::Json } else { top::Format::Table }
}

impl Options {
    pub(super) fn into_config(self, environment: &dyn Environment) -> Result<Config, String> {
        let Self { watched, published, kernel, general, failed_calls, otlp, .. } = self;
        let filter = Filter {
            ports: watched.port.into_iter().collect(),
            pids: each_once(watched.pid),
            comms: each_once(watched.comm),
            uids: each_once(watched.uid),
            cgroups: each_once(watched.cgroup),
            children: watched.children,
        };
        if filter.children && filter.selects_all_processes() {
            return Err("--children needs --pid, --comm, --uid or --cgroup: without them, all \
                        processes are watched already; add one of them, or remove --children"
                .into());
        }
        let schemas = Schemas::new(published.schema)
            .map_err(|clash| format!("invalid list for '--schema <SCHEMA>': {clash}"))?;
        let relatives = Relatives::of(&watched.protocol);
        let [grpc, thrift] = [CallProtocol::Grpc, CallProtocol::Thrift]
            .map(|protocol| watched.protocol.contains(&protocol));
        if relatives.any() && !grpc {
            return Err(
                "invalid list for '--protocol <PROTOCOL>': grpc-web and connect need grpc; \
                        add it, as in grpc,connect"
                    .into(),
            );
        }
        if !watched.thrift_port.is_empty() && !thrift {
            return Err("--thrift-port needs thrift in --protocol: add it, as in --protocol \
                        grpc,thrift, or remove --thrift-port"
                .into());
        }
        let schemas = if thrift { schemas.and_thrift() } else { schemas };
        let schemas = if grpc { schemas } else { schemas.without_grpc() };
        check_label_service(&published.labels, published.by, &schemas)?;
        // The flag may be repeated; the bounds are checked as one list.
        let buckets = if published.buckets.is_empty() {
            schemas.default_buckets()
        } else {
            let parsed = published.buckets.join(",").parse();
            parsed.map_err(|reason| format!("invalid list for '--buckets <SECONDS>': {reason}"))?
        };
        #[cfg(feature = "kubernetes")]
        let kubernetes = kubernetes::Choice::new(
            self.kubernetes.kubernetes,
            self.kubernetes.kubernetes_node,
            self.kubernetes.kubernetes_token_file,
            self.kubernetes.kubernetes_ca_file,
        )?;
        let variable = |name: &str| environment.get(name)?.into_string().ok();
        let watched_by_others = each_once(otlp.otlp_watched);
        let peers = published.peer_name;
        if !published.service_graph && !peers.is_empty() {
            return Err("--peer-name needs --service-graph: add it, or remove --peer-name".into());
        }
        let service_graph = published.service_graph.then(|| Peers::new(&peers, &watched_by_others));
        #[cfg(feature = "kubernetes")]
        let (service_graph, cluster) = if self.kubernetes.kubernetes_peers {
            kubernetes::Choice::check_peers(kubernetes.as_ref(), published.service_graph)?;
            let learned: [Addresses; 2] = Default::default();
            (service_graph.map(|peers| peers.learning(&learned)), learned.to_vec())
        } else {
            (service_graph, Vec::new())
        };
        let flags = OtlpFlags {
            endpoint: otlp.otlp_endpoint,
            protocol: otlp.otlp_protocol,
            watched: watched_by_others.clone(),
            native_histograms: published.native_histograms,
        };
        let otlp = OtlpConfig::read(flags, &variable, service_graph.is_some())?;
        let omitted = each_once(failed_calls.log_errors_omit);
        Ok(Config {
            filter,
            listen: published.listen,
            health_listen: published.health_listen,
            allow_hosts: published.allow_host,
            web_config_file: published.web_config_file,
            backend: kernel.backend,
            protocols: Protocols { grpc, thrift },
            thrift_ports: watched.thrift_port.into_iter().collect(),
            relatives,
            tls: kernel.tls,
            buckets,
            native_histograms: published.native_histograms,
            exposition: ExpositionConfig {
                schemas,
                created: published.created,
                labels: each_once(published.labels),
                by: published.by,
            },
            descriptor_set: published.descriptor_set,
            excluded: each_once(published.exclude),
            service_names: published.service_name.into_iter().collect(),
            service_graph,
            service_environment: published.service_environment,
            max_methods: published.max_methods as usize,
            max_series: published.max_series as usize,
            max_connections: kernel.max_connections,
            workers: kernel.workers.unwrap_or(Config::default().workers),
            ring_size: kernel.ring_size,
            series_ttl: published.series_ttl,
            btf: kernel.btf,
            log_errors: failed_calls.log_errors.then_some(failures::FailureLogConfig {
                per_second: failed_calls.log_errors_rate,
                omitted,
            }),
            otlp,
            #[cfg(feature = "kubernetes")]
            kubernetes,
            #[cfg(feature = "kubernetes")]
            cluster,
            run_as: general.run_as,
            log: general.log,
        })
    }
}

/// Two labels of one series must not have the same name.
fn check_label_service(labels: &[Detail], by: Grouping, schemas: &Schemas) -> Result<(), String> {
    const OF_SERVICE: [Detail; 2] = [Detail::Service, Detail::ServiceNamespace];
    let has_label = labels.contains(&Detail::Service) || by == Grouping::Service;
    if has_label && schemas.contains(Schema::Requests) {
        return Err(
            "--by service and --labels service cannot be combined with --schema requests, \
                    which has a label service for the gRPC service: use another schema"
                .into(),
        );
    }
    if by == Grouping::Service && OF_SERVICE.iter().any(|label| labels.contains(label)) {
        return Err("with --by service every series has the labels service and \
                    service_namespace: remove them from --labels"
            .into());
    }
    Ok(())
}

fn each_once<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}
