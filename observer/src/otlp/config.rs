//! The configuration of the export: the flags of `--otlp-…`, and OpenTelemetry's variables.
//!
//! A flag counts before a variable, and a variable of a signal before the general one. An empty variable is not set; names
//! of choices ignore case; a value that cannot be read is logged and ignored, as the specification wants it ("OTLP
//! Exporter Configuration", "Environment Variable Specification"). Only an endpoint or a protocol that cannot be read is
//! an error: without it nothing would be exported.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
    http::uri::Scheme,
};
use percent_encoding::percent_decode_str;

use observer_core::names::Network;

use super::sampler::Sampler;

/// The protocol of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1.
    #[value(name = "http/protobuf")]
    HttpProtobuf,
    /// gRPC.
    #[value(name = "grpc")]
    Grpc,
}

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct OtlpFlags {
    /// `--otlp-endpoint`
    pub endpoint: Option<String>,
    /// `--otlp-protocol`
    pub protocol: Option<Protocol>,
    /// `--otlp-watched`
    pub watched: Vec<Network>,
    /// `--native-histograms`
    pub native_histograms: bool,
}

/// The receiver of one signal, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The URL of requests: with a scheme, a host, and a path.
    pub url: Uri,
    /// The protocol.
    pub protocol: Protocol,
    /// Headers for each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether requests are compressed with gzip.
    pub gzip: bool,
    /// The time limit of one request.
    pub timeout: Duration,
    /// The file with the CA certificate for the receiver; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The files with a certificate and its key, to show to the receiver.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Receiver {
    /// Whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.url.scheme() == Some(&Scheme::HTTPS)
    }

    /// The files that are read again.
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let own = self.client_certificate.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.ca_file.iter().chain(own)
    }
}

/// The configuration of the export of metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// The receiver.
    pub receiver: Receiver,
    /// The time between two exports.
    pub interval: Duration,
    /// How long a request is kept, while it is sent again and again.
    pub patience: Duration,
}

/// The configuration of the export.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// The receiver of spans; `None` if they are not exported.
    pub traces: Option<Receiver>,
    /// The export of metrics; `None` if they are not exported.
    pub metrics: Option<MetricsConfig>,
    /// Which calls get a span.
    pub sampler: Sampler,
    /// How long spans wait for others, to be sent with them.
    pub delay: Duration,
    /// How long the spans of a request are kept, while it is sent again and again.
    pub patience: Duration,
    /// Most spans of a request.
    pub max_batch: usize,
    /// Most spans that wait.
    pub max_queue: usize,
    /// Networks whose clients other daemons watch.
    pub watched: Vec<Network>,
    /// Whether spans also have the names of older conventions.
    pub adds_old: bool,
    /// Attributes for each resource.
    pub resource: Vec<(String, String)>,
    /// Problems with variables, to be logged.
    pub warnings: Vec<String>,
}

impl OtlpConfig {
    /// Reads the configuration; `None` if there is no endpoint, or the export is turned off. `variable` returns the value
    /// of an environment variable; `has_graph` is whether the networks are for the service graph, too.
    pub(crate) fn read(
        flags: OtlpFlags,
        variable: &dyn Fn(&str) -> Option<String>,
        has_graph: bool,
    ) -> Result<Option<Self>, String> {
        let OtlpFlags { endpoint, protocol, watched, native_histograms } = flags;
        let endpoint = endpoint.as_deref();
        let mut variables = Variables { variable, warnings: Vec::new() };
        let is_off = variables.choice("OTEL_SDK_DISABLED", &[("true", true), ("false", false)]);
        let has_flag = endpoint.is_some();
        let receiver = |variables: &mut Variables<'_>, signal: &Signal, exporter: &str| {
            let wanted = variables.choice(exporter, &[("otlp", true), ("none", false)]);
            let is_off = wanted == Some(false) || (is_off == Some(true) && !has_flag);
            if is_off { Ok(None) } else { variables.receiver(signal, endpoint, protocol) }
        };
        let traces = receiver(&mut variables, &TRACES, "OTEL_TRACES_EXPORTER")?;
        let metrics = receiver(&mut variables, &METRICS, "OTEL_METRICS_EXPORTER")?;
        if traces.is_none() && metrics.is_none() {
            let is_used = watched.is_empty() || has_graph;
            return if is_used { Ok(None) } else { Err(NO_ENDPOINT.into()) };
        }
        let milliseconds = |variables: &mut Variables<'_>, name, default| {
            Duration::from_millis(variables.number(name).unwrap_or(default))
        };
        let sampler = match variables.text("OTEL_TRACES_SAMPLER") {
            None => Sampler::default(),
            Some(name) => {
                let argument = variables.text("OTEL_TRACES_SAMPLER_ARG");
                Sampler::parse(&name, argument.as_deref()).unwrap_or_else(|error| {
                    variables.warn("OTEL_TRACES_SAMPLER", &error);
                    Sampler::default()
                })
            }
        };
        let max_queue: Option<usize> = variables.number("OTEL_BSP_MAX_QUEUE_SIZE");
        let max_queue = max_queue.unwrap_or(usize::MAX).max(1);
        let max_batch = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(512);
        let adds_old = match variables.text("OTEL_SEMCONV_STABILITY_OPT_IN") {
            None => false,
            Some(list) => list.split(',').any(|word| word.trim() == "rpc/dup"),
        };
        if metrics.is_some() {
            variables.name_unsupported(native_histograms);
        }
        Ok(Some(Self {
            traces,
            metrics: metrics.map(|receiver| MetricsConfig {
                receiver,
                interval: milliseconds(&mut variables, "OTEL_METRIC_EXPORT_INTERVAL", 60_000),
                patience: milliseconds(&mut variables, "OTEL_METRIC_EXPORT_TIMEOUT", 30_000),
            }),
            sampler,
            delay: milliseconds(&mut variables, "OTEL_BSP_SCHEDULE_DELAY", 5_000),
            patience: milliseconds(&mut variables, "OTEL_BSP_EXPORT_TIMEOUT", 30_000),
            max_batch: max_batch.clamp(1, max_queue),
            max_queue,
            watched,
            adds_old,
            resource: variables.resource(),
            warnings: variables.warnings,
        }))
    }

    /// The receivers.
    pub fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        self.traces.iter().chain(self.metrics.iter().map(|of| &of.receiver))
    }

    /// The files that are read again while the daemon runs.
    pub fn files(&self) -> Vec<PathBuf> {
        let is_secure = self.receivers().any(Receiver::is_secure);
        let system = is_secure.then(super::tls::authorities_of_the_system).flatten();
        self.receivers().flat_map(Receiver::files).cloned().chain(system).collect()
    }
}

const NO_ENDPOINT: &str = "--otlp-watched needs --otlp-endpoint, OTEL_EXPORTER_OTLP_ENDPOINT or \
                           --service-graph: add one, or remove it";

const TRACES: Signal = Signal {
    name: "TRACES",
    path: "/v1/traces",
    service: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
};

const METRICS: Signal = Signal {
    name: "METRICS",
    path: "/v1/metrics",
    service: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
};

/// A kind of data, with a receiver of its own.
struct Signal {
    /// The word for it in variables.
    name: &'static str,
    /// The path that is added to a general endpoint.
    path: &'static str,
    /// The path of the gRPC method.
    service: &'static str,
}

/// Variables, and the problems with them.
struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Variables<'_> {
    fn warn(&mut self, name: &str, error: &str) {
        let warning = format!("ignoring the environment variable {name}: {error}");
        // The general variables are read for each signal.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|text| !text.trim().is_empty())
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        let number = text.trim().parse().ok();
        if number.is_none() {
            self.warn(name, &format!("'{text}' is not a whole number"));
        }
        number
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let is = |word: &str| word.eq_ignore_ascii_case(text.trim());
        let chosen = choices.iter().find(|(word, _)| is(word)).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.warn(name, &format!("'{text}' is not one of {}", words.join(", ")));
        }
        chosen
    }

    /// Names the variables about metrics that want something else than what is exported.
    fn name_unsupported(&mut self, native_histograms: bool) {
        let [explicit, exponential] =
            ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"];
        for (name, exported) in [
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                if native_histograms { exponential } else { explicit },
            ),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based"),
        ] {
            self.choice(name, &[(exported, ())]);
        }
    }

    /// The name of the signal's variable, if it is set, else of the general one.
    fn name(&self, signal: &Signal, option: &str) -> String {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{option}", signal.name);
        if self.text(&own).is_some() { own } else { format!("OTEL_EXPORTER_OTLP_{option}") }
    }

    fn of(&self, signal: &Signal, option: &str) -> Option<String> {
        self.text(&self.name(signal, option))
    }

    fn receiver(
        &mut self,
        signal: &Signal,
        endpoint: Option<&str>,
        protocol: Option<Protocol>,
    ) -> Result<Option<Receiver>, String> {
        let name = self.name(signal, "ENDPOINT");
        let is_general = endpoint.is_some() || !name.contains(signal.name);
        let given = endpoint.map(str::to_owned).or_else(|| self.text(&name));
        let Some(given) = given else { return Ok(None) };
        let choices = [("http/protobuf", Protocol::HttpProtobuf), ("grpc", Protocol::Grpc)];
        let variable = self.name(signal, "PROTOCOL");
        let protocol = match protocol {
            Some(protocol) => protocol,
            None => self.choice(&variable, &choices).unwrap_or(Protocol::HttpProtobuf),
        };
        let variable = self.name(signal, "INSECURE");
        let is_insecure = self.choice(&variable, &[("true", true), ("false", false)]);
        let of_grpc = (protocol == Protocol::Grpc).then_some(is_insecure == Some(true));
        let url = url(given.trim(), of_grpc, is_general, signal).map_err(|error| {
            let origin = if endpoint.is_some() { "--otlp-endpoint" } else { &name };
            format!("invalid value '{given}' for '{origin}': {error}")
        })?;
        let variable = self.name(signal, "TIMEOUT");
        let timeout = Duration::from_millis(self.number(&variable).unwrap_or(10_000));
        let variable = self.name(signal, "COMPRESSION");
        let gzip = self.choice(&variable, &[("gzip", true), ("none", false)]);
        let file = |option| self.of(signal, option).map(PathBuf::from);
        let ca_file = file("CERTIFICATE");
        let client_certificate = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and \
                            OTEL_EXPORTER_OTLP_CLIENT_KEY need each other: set both, or unset both"
                    .into());
            }
        };
        let headers = self.headers(signal);
        let gzip = gzip == Some(true);
        Ok(Some(Receiver { url, protocol, headers, gzip, timeout, ca_file, client_certificate }))
    }

    /// Headers as in W3C Baggage: `name=value`, comma separated, percent-encoded.
    fn headers(&mut self, signal: &Signal) -> Vec<(HeaderName, HeaderValue)> {
        let variable = self.name(signal, "HEADERS");
        let Some(list) = self.text(&variable) else { return Vec::new() };
        let mut headers = Vec::new();
        for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
            let read = pair.split_once('=').and_then(|(name, value)| {
                let name = HeaderName::from_str(name.trim()).ok()?;
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            match read {
                Some(header) => headers.push(header),
                // It may be a secret, so it is not shown.
                None => self.warn(&variable, "an entry is not NAME=VALUE"),
            }
        }
        headers
    }

    /// `OTEL_RESOURCE_ATTRIBUTES`, without those of a service or process: these are the daemon's own.
    fn resource(&mut self) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(list) = self.text(NAME) else { return Vec::new() };
        let mut attributes = Vec::new();
        for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
            let read = pair.split_once('=').and_then(|(key, value)| {
                let decoded = |text: &str| {
                    Some(percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned())
                };
                Some((decoded(key).filter(|key| !key.is_empty())?, decoded(value)?))
            });
            let Some((key, value)) = read else {
                // The specification drops all of them then.
                self.warn(NAME, &format!("'{pair}' is not KEY=VALUE"));
                return Vec::new();
            };
            if !key.starts_with("service.") && !key.starts_with("process.") {
                attributes.push((key, value));
            }
        }
        attributes
    }
}

/// The URL of requests. `of_grpc`: for gRPC, whether an endpoint without a scheme is one without TLS. `is_general`: the
/// endpoint is for all signals, so the path of this one is added.
fn url(
    endpoint: &str,
    of_grpc: Option<bool>,
    is_general: bool,
    signal: &Signal,
) -> Result<Uri, String> {
    const WRITE: &str = "write e.g. http://127.0.0.1:4318, or with gRPC http://127.0.0.1:4317";
    let with_scheme = match of_grpc {
        Some(is_insecure) if !endpoint.contains("://") => {
            format!("{}://{endpoint}", if is_insecure { "http" } else { "https" })
        }
        _ => endpoint.to_owned(),
    };
    let uri: Uri = with_scheme.parse().map_err(|error| format!("{error}: {WRITE}"))?;
    let is_web = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
    if !is_web || uri.host().is_none_or(str::is_empty) {
        return Err(format!("this is not the URL of a receiver: {WRITE}"));
    }
    let path = match of_grpc {
        Some(_) => signal.service.to_owned(),
        None if is_general => {
            let before = uri.path().trim_end_matches('/');
            let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{before}{}{query}", signal.path)
        }
        None => return Ok(uri),
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|error| format!("{error}: {WRITE}"))?);
    Uri::from_parts(parts).map_err(|error| format!("{error}: {WRITE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::sampler::Root;

    fn read(
        endpoint: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<OtlpConfig>, String> {
        let flags = OtlpFlags { endpoint: endpoint.map(str::to_owned), ..OtlpFlags::default() };
        let variable = |name: &str| {
            variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
        };
        OtlpConfig::read(flags, &variable, false)
    }

    fn config(endpoint: Option<&str>, variables: &[(&str, &str)]) -> OtlpConfig {
        read(endpoint, variables).expect("valid").expect("an endpoint")
    }

    const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(read(None, &[]), Ok(None));
        assert_eq!(read(None, &[(GENERAL, " ")]), Ok(None));
        let off = ("OTEL_SDK_DISABLED", "TRUE");
        assert_eq!(read(None, &[(GENERAL, "http://a"), off]), Ok(None));
        assert!(read(Some("http://a"), &[off]).unwrap().is_some(), "the flag counts first");
        let [traces, metrics] =
            [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")];
        assert_eq!(read(Some("http://a"), &[traces, metrics]), Ok(None));
        let only_metrics = config(Some("http://a"), &[traces]);
        assert!(only_metrics.traces.is_none() && only_metrics.metrics.is_some());
        let only_traces = config(Some("http://a"), &[metrics]);
        assert!(only_traces.traces.is_some() && only_traces.metrics.is_none());
    }

    /// The flag, the variables, and the URL that they lead to.
    type Row<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a str);

    #[test]
    fn urls_of_both_protocols() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        let rows: [Row<'_>; 8] = [
            (Some("http://a:4318"), &[(OWN, "http://b")], "http://a:4318/v1/traces"),
            (Some("https://a/x/?y=1"), &[], "https://a/x/v1/traces?y=1"),
            (None, &[(GENERAL, "http://a:4318/")], "http://a:4318/v1/traces"),
            (None, &[(GENERAL, "http://a"), (OWN, "http://b:1/as/it/is")], "http://b:1/as/it/is"),
            (None, &[(OWN, "http://b:1")], "http://b:1/"),
            (None, &[(GENERAL, "http://[::1]:4317"), grpc], "http://[::1]:4317SERVICE"),
            (None, &[(OWN, "a:4317"), grpc], "https://a:4317SERVICE"),
            (Some("a:4317"), &[grpc, insecure], "http://a:4317SERVICE"),
        ];
        for (endpoint, variables, expected) in rows {
            let config = config(endpoint, variables);
            let expected = expected.replace("SERVICE", TRACES.service);
            let traces = config.traces.expect("a receiver");
            assert_eq!(traces.url.to_string(), expected, "{endpoint:?} {variables:?}");
            // The variable of the other signal does not count.
            let other = config.metrics.map(|of| of.receiver.url.to_string());
            let of_other = expected.replace("v1/traces", "v1/metrics");
            let of_other = of_other.replace(TRACES.service, METRICS.service);
            let is_own = variables.iter().any(|(name, _)| *name == OWN) && endpoint.is_none();
            assert!(is_own || other == Some(of_other), "{other:?}");
            assert_eq!(config.warnings, Vec::<String>::new());
        }
        for bad in ["a:4318", "ftp://a", "http://", "/v1/traces", "http://a b", ""] {
            assert!(read(Some(bad), &[]).unwrap_err().contains("--otlp-endpoint"), "{bad:?}");
        }
        assert!(read(None, &[(GENERAL, "a")]).unwrap_err().contains(GENERAL));
    }

    #[test]
    fn variables_of_the_signal_count_before_the_general_ones() {
        let config = config(
            Some("https://a"),
            &[
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
                ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, X-Other = c=d"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c"),
                ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k"),
                ("OTEL_BSP_SCHEDULE_DELAY", "20"),
                ("OTEL_BSP_EXPORT_TIMEOUT", "40"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0"),
                ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,rpc/dup"),
                ("OTEL_RESOURCE_ATTRIBUTES", "host.name=n%2C1,service.name=no,process.pid=1,a=b"),
            ],
        );
        let Receiver { headers, gzip, timeout, ca_file, client_certificate, .. } =
            config.traces.expect("a receiver");
        assert_eq!((gzip, timeout), (true, Duration::from_millis(1500)));
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("api-key", "a b"), ("x-other", "c=d")]);
        assert_eq!(ca_file, Some("/ca".into()));
        assert_eq!(client_certificate, Some(("/c".into(), "/k".into())));
        let times = (config.delay.as_millis(), config.patience.as_millis());
        assert_eq!((times, config.max_queue, config.max_batch), ((20, 40), 100, 100));
        assert_eq!(config.sampler.root, Root::AtLeast(1 << 56));
        assert!(config.adds_old);
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(config.resource, [own("host.name", "n,1"), own("a", "b")]);
    }

    #[test]
    fn what_cannot_be_read_is_ignored_and_named() {
        let bad = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no value"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "base2_exponential_bucket_histogram",
            ),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off"),
        ];
        let plain = config(Some("http://a"), &[]);
        for variable in bad {
            let mut config = config(Some("http://a"), &[variable]);
            let warnings = std::mem::take(&mut config.warnings);
            assert_eq!(config, plain, "{variable:?}");
            assert_eq!(warnings.len(), 1, "{variable:?}");
            assert!(warnings[0].contains(variable.0) && !warnings[0].contains("no value"));
        }
        let exported = [
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
                "explicit_bucket_histogram",
            ),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based"),
        ];
        assert_eq!(config(Some("http://a"), &exported), plain);
        let half = [("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k")];
        assert!(read(Some("http://a"), &half).unwrap_err().contains("need each other"));
    }
}
