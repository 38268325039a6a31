//! Numbers that depend on a seed alone, and the distributions that the trace is made of.

/// splitmix64: small, fast, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub(crate) const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `end`, which is not zero.
    pub(crate) const fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    pub(crate) const fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// With that mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// At least 1, with that mean.
    pub(crate) fn geometric(&mut self, mean: f64) -> usize {
        1 + ((1.0 - self.unit()).ln() / (1.0 - 1.0 / mean).ln()) as usize
    }

    /// From its median and its 90th percentile.
    pub(crate) fn log_normal(&mut self, median: f64, p90: f64) -> f64 {
        const Z_90: f64 = 1.2816;
        let normal =
            (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        median * ((p90 / median).ln() / Z_90 * normal).exp()
    }

    /// From points of the distribution (share, value), with straight lines between their
    /// logarithms.
    pub(crate) fn quantile(&mut self, points: &[(f64, f64)]) -> f64 {
        let at = self.unit();
        for pair in points.windows(2) {
            let ((low, from), (high, to)) = (pair[0], pair[1]);
            if at < high {
                return from * (to / from).powf((at - low) / (high - low));
            }
        }
        points[points.len() - 1].1
    }
}

/// Draws an index by its weight.
pub(crate) struct Weighted(Vec<f64>);

impl Weighted {
    pub(crate) fn new(weights: impl Iterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        Self(
            weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect(),
        )
    }

    /// The n-th of `len` weighs 1 / (n + 1)^`exponent`.
    pub(crate) fn zipf(len: usize, exponent: f64) -> Self {
        Self::new((1..=len).map(|rank| (rank as f64).powf(-exponent)))
    }

    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let at = random.unit() * self.0[self.0.len() - 1];
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}
