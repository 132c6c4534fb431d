//! What the demo needs of the OpenMetrics text format: samples with their labels.

use anyhow::{Context as _, Result, bail};

/// One line of an exposition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    /// The label's value; empty if there is no such label, which means the same.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// The samples of an exposition, which ends with `# EOF`.
pub(super) fn parse(text: &str) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut ended = false;
    for (line, number) in text.lines().zip(1..) {
        ended = line == "# EOF";
        if !line.is_empty() && !line.starts_with('#') {
            samples.push(sample(line).with_context(|| format!("line {number}: {line}"))?);
        }
    }
    if !ended {
        bail!("the exposition is cut: it does not end with # EOF");
    }
    Ok(samples)
}

/// `name{label="value",…} value …`; a timestamp and an exemplar may follow.
fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next().context("no value")?;
    // Rust reads "+Inf" and "NaN" too.
    let value = value.parse().with_context(|| format!("{value} is not a number"))?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Labels, and what follows their closing brace.
fn labels(mut rest: &str) -> Result<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"").context("no closing brace")?;
        let (value, after) = unescaped(quoted)?;
        labels.push((name.to_owned(), value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// A quoted value, and what follows its closing quote.
fn unescaped(quoted: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok((value, characters.as_str())),
            '\\' => match characters.next() {
                Some('n') => value.push('\n'),
                Some(escaped) => value.push(escaped),
                None => break,
            },
            other => value.push(other),
        }
    }
    bail!("no closing quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"two\"} 3.5\nb 1e3 1700000000\n\
                    c_bucket{le=\"+Inf\"} 4 # {trace=\"t\"} 0.1\nd{} NaN\n# EOF\n";
        let samples = parse(text).unwrap();
        let names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
        assert_eq!(names, ["a_total", "b", "c_bucket", "d"]);
        assert_eq!(samples[0].label("y"), "two");
        assert_eq!(samples[0].label("z"), "");
        assert_eq!(samples[2].label("le"), "+Inf");
        let values: Vec<String> = samples.iter().map(|sample| sample.value.to_string()).collect();
        assert_eq!(values, ["3.5", "1000", "4", "NaN"]);
    }

    #[test]
    fn label_values_may_hold_anything_escaped() {
        let samples = parse("a{x=\"q\\\"},\\\\\\n\",y=\"}\"} 1\n# EOF\n").unwrap();
        assert_eq!(samples[0].label("x"), "q\"},\\\n");
        assert_eq!(samples[0].label("y"), "}");
    }

    #[test]
    fn what_is_not_an_exposition_is_refused() {
        for text in ["", "a 1\n", "a\n# EOF", "a{x=\"1\n# EOF", "a{x=\"1\" 1\n# EOF", "a b\n# EOF"]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
