//! What a service's `/metrics` says.

/// The samples of one scrape, in the Prometheus text format.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads a scrape; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The values of a metric, with those of its label `label`.
    pub fn by_label<'a>(&'a self, name: &'a str, label: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.iter().filter(move |sample| sample.name == name).filter_map(move |sample| {
            let (_, value) = sample.labels.iter().find(|(name, _)| name == label)?;
            Some((value.as_str(), sample.value))
        })
    }

    /// The largest value of a metric.
    pub fn largest(&self, name: &str) -> Option<f64> {
        self.0.iter().filter(|sample| sample.name == name).map(|sample| sample.value).reduce(f64::max)
    }

    /// The sum of a counter over the samples with all of these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has = |sample: &Sample| {
            labels.iter().all(|(name, value)| sample.labels.iter().any(|(n, v)| n == name && v == value))
        };
        self.0
            .iter()
            .filter(|sample| sample.name == name && has(sample))
            .map(|sample| whole(sample.value))
            .sum()
    }
}

/// A count, which the format writes as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and counts are whole"
)]
pub fn whole(value: f64) -> u64 {
    value as u64
}

/// `name{label="value",…} 1.5`
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, Vec::new()),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

fn labels(mut text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.push((name.trim_start_matches(',').to_owned(), value));
        text = rest;
    }
    Some(labels)
}

/// The text up to the quote that ends it, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_by_name_and_label() {
        let metrics = Metrics::parse(
            "# TYPE open gauge\nopen{code=\"a\"} 3\nopen{code=\"b \\\"x\\\", {y}\",z=\"\"} 4.5\nlag 0.25\nnonsense\nbad{x 1\n",
        );
        let open: Vec<_> = metrics.by_label("open", "code").collect();
        assert_eq!(open, [("a", 3.0), ("b \"x\", {y}", 4.5)]);
        assert_eq!(metrics.largest("open"), Some(4.5));
        assert_eq!((metrics.largest("lag"), metrics.largest("none")), (Some(0.25), None));
        assert_eq!((metrics.sum("open", &[]), metrics.sum("open", &[("code", "a")])), (7, 3));
    }
}
