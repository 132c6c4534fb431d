//! Content codings (RFC 9110, section 12.5.3): gzip, if the client accepts it.

use hyper::HeaderMap;
use hyper::header::ACCEPT_ENCODING;

/// Whether the request's headers accept gzip, by name or by `*`, with a weight above 0.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values =
        headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for offer in values.flat_map(|value| value.split(',')) {
        let (coding, parameters) = offer.split_once(';').unwrap_or((offer, ""));
        match coding.trim() {
            "*" => any = weight(parameters) > 0.0,
            coding
                if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") =>
            {
                return weight(parameters) > 0.0;
            }
            _ => {}
        }
    }
    any
}

/// The weight in parameters such as `q=0.5`: 1 without one, 0 if it is invalid.
fn weight(parameters: &str) -> f32 {
    let quality = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    });
    quality.map_or(1.0, |value| value.parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn accepts(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
        }
        accepts_gzip(&headers)
    }

    #[test]
    fn gzip_is_for_who_takes_it() {
        let taken: [&[&str]; 7] = [
            &["gzip"],
            &["deflate, GZIP;q=0.5"],
            &["br", "gzip"],
            &["*"],
            &["*;q=0, gzip"],
            &["x-gzip"],
            &["gzip; q=0.001"],
        ];
        for values in taken {
            assert!(accepts(values), "{values:?}");
        }
        let refused: [&[&str]; 8] = [
            &[],
            &[""],
            &["identity"],
            &["gzip;q=0"],
            &["*, gzip;q=0"],
            &["gzip;q=0.000, *"],
            &["*;q=0"],
            &["gzip;q=much"],
        ];
        for values in refused {
            assert!(!accepts(values), "{values:?}");
        }
    }
}
