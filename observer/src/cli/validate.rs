//! Flags become a configuration. What no single flag's text can show to be wrong is checked here.

use super::Environment;
use super::flags::{Options, Top};
use crate::config::{Config, Filter};
use crate::failures;
#[cfg(feature = "kubernetes")]
use crate::kubernetes;
use crate::metrics::{ExpositionConfig, Schemas};
use crate::top::{self, Access, PASSWORD_VARIABLE, Password};

impl Top {
    /// A password is not for the command line, which every user of the machine can read.
    pub(super) fn into_options(self, environment: &dyn Environment) -> top::Options {
        let Self { address, ca_file, user, password_file, allow_plaintext_password, .. } = self;
        let Self { once, table: _, json, sort: order, filter, .. } = self;
        let given = || environment.get(PASSWORD_VARIABLE)?.into_string().ok();
        let password = password_file.map(Password::File).or_else(|| given().map(Password::Is));
        let password = password.filter(|_| user.is_some());
        let access = Access { ca_file, user, password, plaintext: allow_plaintext_password };
        let format = if json { top::Format::Json } else { top::Format::Table };
        top::Options { address, access, once: once.then_some(format), order, filter }
    }
}

impl Options {
    pub(super) fn into_config(self) -> Result<Config, String> {
        let children = self.children;
        let filter = Filter {
            ports: self.port.into_iter().collect(),
            pids: each_once(self.pid),
            comms: each_once(self.comm),
            uids: each_once(self.uid),
            cgroups: each_once(self.cgroup),
            children,
        };
        if children && filter.selects_all_processes() {
            return Err("--children needs --pid, --comm, --uid or --cgroup: without them, all \
                        processes are watched already; add one of them, or remove --children"
                .into());
        }
        // One list, however often the flag was given: only together can the bounds be wrong.
        let schemas = Schemas::new(self.schema)
            .map_err(|clash| format!("invalid list for '--schema <SCHEMA>': {clash}"))?;
        let buckets = if self.buckets.is_empty() {
            schemas.default_buckets()
        } else {
            let parsed = self.buckets.join(",").parse();
            parsed.map_err(|reason| format!("invalid list for '--buckets <SECONDS>': {reason}"))?
        };
        #[cfg(feature = "kubernetes")]
        let kubernetes = kubernetes::Choice::new(
            self.kubernetes,
            self.kubernetes_node,
            self.kubernetes_token_file,
            self.kubernetes_ca_file,
        )?;
        let omitted = each_once(self.log_errors_omit);
        Ok(Config {
            filter,
            listen: self.listen,
            health_listen: self.health_listen,
            allow_hosts: self.allow_host,
            web_config_file: self.web_config_file,
            backend: self.backend,
            buckets,
            native_histograms: self.native_histograms,
            exposition: ExpositionConfig {
                schemas,
                created: self.created,
                labels: each_once(self.labels),
            },
            descriptor_set: self.descriptor_set,
            max_methods: self.max_methods as usize,
            max_series: self.max_series as usize,
            max_connections: self.max_connections,
            workers: self.workers.unwrap_or(Config::default().workers),
            ring_size: self.ring_size,
            series_ttl: self.series_ttl,
            btf: self.btf,
            log_errors: self.log_errors.then_some(failures::FailureLogConfig {
                per_second: self.log_errors_rate,
                omitted,
            }),
            #[cfg(feature = "kubernetes")]
            kubernetes,
            run_as: self.run_as,
            log: self.log,
        })
    }
}

fn each_once<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}
