//! The formats of the exposition, and which one a scraper gets.

/// A format of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenMetrics 1.0.0 text, with `_created` and exemplars.
    OpenMetricsText,
    /// Prometheus' text format, version 0.0.4: the default.
    PrometheusText,
    /// Delimited `io.prometheus.client.MetricFamily` messages, with creation times, exemplars, and native histograms if
    /// they are recorded.
    Protobuf,
}

impl Format {
    /// The `content-type` of an exposition in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetricsText => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }

    /// The format for an `accept` header field (RFC 9110 §12.5.1), chosen like in client_golang's promhttp with OpenMetrics
    /// enabled: the format with the highest weight, and the first one of several; the Prometheus text format if the field
    /// names no format.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut best = (0.0, Self::PrometheusText);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(media_type) = parts.next() else { continue };
            let parameters = Parameters::of(parts);
            if let Some(format) = parameters.select(media_type)
                && parameters.weight > best.0
            {
                best = (parameters.weight, format);
            }
        }
        best.1
    }
}

/// The parameters of a media type.
struct Parameters<'a> {
    version: Option<&'a str>,
    proto: Option<&'a str>,
    encoding: Option<&'a str>,
    /// From 0, not acceptable, to 1.
    weight: f64,
}

impl<'a> Parameters<'a> {
    fn of(parts: impl Iterator<Item = &'a str>) -> Self {
        let mut parameters = Self { version: None, proto: None, encoding: None, weight: 1.0 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => parameters.version = Some(value),
                "proto" => parameters.proto = Some(value),
                "encoding" => parameters.encoding = Some(value),
                // An invalid weight is the highest, like in promhttp.
                "q" => parameters.weight = value.parse().unwrap_or(1.0),
                _ => {}
            }
        }
        parameters
    }

    /// The format of a media type with these parameters; `None` if it is not supported.
    fn select(&self, media_type: &str) -> Option<Format> {
        let is = |text: &str| media_type.eq_ignore_ascii_case(text);
        if is("application/openmetrics-text") {
            matches!(self.version, None | Some("1.0.0")).then_some(Format::OpenMetricsText)
        } else if is("text/plain") {
            matches!(self.version, None | Some("0.0.4")).then_some(Format::PrometheusText)
        } else if is("application/vnd.google.protobuf") {
            let families = self.proto == Some("io.prometheus.client.MetricFamily");
            (families && self.encoding == Some("delimited")).then_some(Format::Protobuf)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Format::{self, OpenMetricsText, PrometheusText, Protobuf};

    #[test]
    fn chooses_as_promhttp_does() {
        const PROTOBUF: &str = "application/vnd.google.protobuf;\
            proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let rows = [
            (String::new(), PrometheusText),
            ("*/*".into(), PrometheusText),
            ("text/html,application/xml;q=0.9,*/*;q=0.8".into(), PrometheusText),
            ("text/plain".into(), PrometheusText),
            ("application/openmetrics-text".into(), OpenMetricsText),
            ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8".into(), OpenMetricsText),
            ("application/openmetrics-text; version=\"1.0.0\"".into(), OpenMetricsText),
            ("application/openmetrics-text; version=2.0.0".into(), PrometheusText),
            (PROTOBUF.into(), Protobuf),
            (PROTOBUF.replace("delimited", "text"), PrometheusText),
            (PROTOBUF.replace("MetricFamily", "Metric"), PrometheusText),
            // Prometheus 2.53 and 3.5 by default, and with native histograms.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                 version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                    .into(),
                OpenMetricsText,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                 escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                    .into(),
                OpenMetricsText,
            ),
            (
                format!(
                    "{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
                ),
                Protobuf,
            ),
            // The weight, not the order.
            (format!("{PROTOBUF};q=0.1,text/plain;q=0.9"), PrometheusText),
            (format!("text/plain;q=0.9 , {PROTOBUF}"), Protobuf),
            // Equal weights: the first one.
            (format!("{PROTOBUF};q=0.5,application/openmetrics-text;q=0.5"), Protobuf),
            ("application/openmetrics-text,text/plain".into(), OpenMetricsText),
            // Not acceptable, or nonsense.
            ("application/openmetrics-text;q=0".into(), PrometheusText),
            ("application/openmetrics-text;q=x".into(), OpenMetricsText),
            ("application/openmetrics-text;q=NaN".into(), PrometheusText),
            (";;,,=;q".into(), PrometheusText),
        ];
        for (accept, want) in rows {
            assert_eq!(Format::negotiate(Some(&accept)), want, "{accept}");
        }
        assert_eq!(Format::negotiate(None), PrometheusText);
    }

    #[test]
    fn each_is_chosen_by_its_own_content_type() {
        for format in [OpenMetricsText, PrometheusText, Protobuf] {
            assert_eq!(Format::negotiate(Some(format.content_type())), format);
        }
    }
}
