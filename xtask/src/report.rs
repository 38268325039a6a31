//! What came out: ratios of one run, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Pierhead as it comes: with its log line for each request.
    Pierhead,
    /// Pierhead with `log.level = "warn"`.
    PierheadQuiet,
    /// Pierhead with a policy whose verdict is used again.
    Cached,
    /// Pierhead with a policy that is called for each request.
    Called,
    /// The same, without `PAGEMAP_SCAN`.
    CalledElsewhere,
    /// nginx with the same bytes as files.
    Nginx,
    /// Debian's docker-registry as a pull-through cache.
    Registry,
    /// The upstream itself, without anything between.
    Direct,
}

impl Who {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pierhead => "pierhead",
            Self::PierheadQuiet => "pierhead-quiet",
            Self::Cached => "pierhead-policy-cached",
            Self::Called => "pierhead-policy-called",
            Self::CalledElsewhere => "pierhead-policy-called-without-pagemap-scan",
            Self::Nginx => "nginx",
            Self::Registry => "docker-registry",
            Self::Direct => "direct",
        }
    }
}

/// The rounds of one measure, of everybody who took part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(BTreeMap<Who, Vec<f64>>);

impl Samples {
    /// One more round.
    pub(crate) fn add(&mut self, who: Who, value: f64) {
        self.0.entry(who).or_default().push(value);
    }

    /// The median of all rounds of `who`.
    pub(crate) fn median(&self, who: Who) -> Option<f64> {
        median(self.0.get(&who)?.clone())
    }

    /// The largest of all rounds of `who`.
    pub(crate) fn max(&self, who: Who) -> Option<f64> {
        self.0.get(&who)?.iter().copied().reduce(f64::max)
    }

    /// The median of the ratios of rounds that were run beside each other.
    pub(crate) fn ratio(&self, who: Who, to: Who) -> Option<f64> {
        let (own, others) = (self.0.get(&who)?, self.0.get(&to)?);
        // Who took part in fewer rounds is compared by its last one.
        let pairs = own.iter().enumerate().filter_map(|(n, own)| {
            let other = others.get(n).or(others.last())?;
            (*other > 0.0).then(|| own / other)
        });
        median(pairs.collect())
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(who, samples)| (who.as_str().to_owned(), json!(samples))).collect()
    }
}

/// The middle of `values`, or of their middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values[middle - 1] + upper) / 2.0) }
}

/// The value below which `share` of `values` lie.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).or(values.last()).copied()
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// What Pierhead itself comes to, where that is not only a time.
    pub(crate) own: String,
    /// All rounds.
    pub(crate) samples: Samples,
    /// The most that is allowed, and whether it is kept.
    pub(crate) limit: Option<(String, bool)>,
}

impl Row {
    /// A line of ratios only.
    pub(crate) fn new(name: impl Into<String>, samples: Samples) -> Self {
        Self { name: name.into(), own: String::new(), samples, limit: None }
    }

    /// Shows what Pierhead itself comes to.
    pub(crate) fn own(mut self, own: impl Into<String>) -> Self {
        self.own = own.into();
        self
    }

    /// Sets the limit.
    pub(crate) fn limit(mut self, limit: impl Into<String>, kept: bool) -> Self {
        self.limit = Some((limit.into(), kept));
        self
    }

    fn cells(&self) -> [String; 6] {
        let ratio = |who, to| self.samples.ratio(who, to).map(times).unwrap_or_default();
        let limit = match &self.limit {
            Some((limit, true)) => format!("{limit}: kept"),
            Some((limit, false)) => format!("{limit}: BROKEN"),
            None => String::new(),
        };
        [
            self.name.clone(),
            self.own.clone(),
            ratio(Who::Pierhead, Who::Nginx),
            ratio(Who::PierheadQuiet, Who::Nginx),
            ratio(Who::Pierhead, Who::Registry),
            limit,
        ]
    }
}

/// A ratio with as many digits as mean something.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        r if r >= 100.0 => format!("{r:.0} x"),
        r if r >= 10.0 => format!("{r:.1} x"),
        r if r >= 0.1 => format!("{r:.2} x"),
        r => format!("{r:.4} x"),
    }
}

const HEADS: [&str; 6] =
    ["measure", "Pierhead", "over nginx", "without log", "over registry", "limit"];

/// Prints the lines, aligned.
pub(crate) fn print(rows: &[Row]) {
    let lines: Vec<_> =
        std::iter::once(HEADS.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|n| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0))
        .collect();
    for line in &lines {
        let mut text = String::new();
        for (n, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Numbers stand at the right, names at the left.
            text += &match n {
                0 | 1 | 5 => format!("{cell:<width$}  "),
                _ => format!("{cell:>width$}  "),
            };
        }
        println!("{}", text.trim_end());
    }
}

/// Everything, for a program.
pub(crate) fn to_json(about: &[(String, String)], rows: &[Row]) -> Value {
    let about: serde_json::Map<_, _> =
        about.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "measure": row.name,
                "pierhead": row.own,
                "over_nginx": row.samples.ratio(Who::Pierhead, Who::Nginx),
                "over_nginx_without_log": row.samples.ratio(Who::PierheadQuiet, Who::Nginx),
                "over_docker_registry": row.samples.ratio(Who::Pierhead, Who::Registry),
                "over_direct": row.samples.ratio(Who::Pierhead, Who::Direct),
                "limit": row.limit.as_ref().map(|(limit, _)| limit),
                "limit_kept": row.limit.as_ref().map(|(_, kept)| kept),
                "samples": row.samples.json(),
            })
        })
        .collect();
    json!({ "about": about, "measures": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_are_found() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
        assert_eq!(percentile((1..=100).map(f64::from).collect(), 0.99), Some(99.0));
        assert_eq!(percentile(vec![5.0], 0.99), Some(5.0));
    }

    #[test]
    fn rounds_are_compared_with_their_neighbours() {
        let mut samples = Samples::default();
        for (own, other) in [(1.0, 2.0), (10.0, 10.0), (9.0, 3.0)] {
            samples.add(Who::Pierhead, own);
            samples.add(Who::Nginx, other);
        }
        samples.add(Who::Registry, 1.0);
        assert_eq!(samples.ratio(Who::Pierhead, Who::Nginx), Some(1.0));
        assert_eq!(samples.ratio(Who::Pierhead, Who::Registry), Some(9.0));
        assert_eq!(samples.ratio(Who::Pierhead, Who::Direct), None);
    }
}
