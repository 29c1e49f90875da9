//! Ranges and ticks of an axis: steps of 1, 2 or 5 times a power of ten (Heckbert 1990), labels with just enough decimals.

/// A range of values with the ticks inside it.
pub(super) struct Scale {
    /// Lowest value in the frame.
    pub low: f64,
    /// Highest value in the frame.
    pub high: f64,
    /// Ticks and their labels, upwards.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// About six ticks over [low, high], with a margin of 4 % at both ends.
    pub(super) fn values(low: f64, high: f64) -> Self {
        // A flat line gets a range of its own size, not none.
        let size = if high > low { high - low } else { low.abs().max(1.0) };
        let (low, high) = (low - 0.04 * size, high + 0.04 * size);
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| rough <= factor * power).unwrap_or(10.0);
        let exponent = step.log10().floor();
        let label = |y: f64| {
            let magnitude = low.abs().max(high.abs()).log10();
            let text = if y == 0.0 {
                "0".to_owned()
            } else if !(-4.0..6.0).contains(&magnitude) {
                format!("{y:.*e}", (magnitude.floor() - exponent).clamp(0.0, 15.0) as usize)
            } else {
                format!("{y:.*}", (-exponent).max(0.0) as usize)
            };
            text.replace('-', "−")
        };
        let (first, last) = ((low / step).ceil(), (high / step).floor());
        let count = (last - first).clamp(0.0, 20.0) as usize;
        let ticks = (0..=count).map(|i| (first + i as f64) * step).map(|y| (y, label(y)));
        Self { low, high, ticks: ticks.collect() }
    }

    /// Whole turns 1..=turns; every turn is labelled while they fit, then 1 and the multiples of 2, 5, 10, ...
    pub(super) fn turns(turns: usize) -> Self {
        const MOST: usize = 26;
        let mut step = 1;
        let mut factors = [2, 5, 10].into_iter().cycle();
        let mut decade = 1;
        while turns / step > MOST {
            let factor = factors.next().unwrap_or(10);
            step = factor * decade;
            if factor == 10 {
                decade *= 10;
            }
        }
        let ticks =
            (1..=turns).filter(|turn| *turn == 1 || turn % step == 0).map(|turn| (turn as f64, turn.to_string()));
        // A margin beside the outermost turns, relatively smaller when there are many.
        let margin = (0.03 * turns as f64).clamp(0.3, 2.0);
        Self { low: 1.0 - margin, high: turns as f64 + margin, ticks: ticks.collect() }
    }

    /// Positions on the horizontal axis, ascending: each has a tick if they are few and far enough apart; otherwise ticks as `values`.
    pub(super) fn positions(positions: &[f64]) -> Self {
        const MOST: usize = 16;
        const LEAST_GAP: f64 = 0.045;
        let (low, high) = match positions {
            [] => (0.0, 1.0),
            [first, ..] => (*first, positions[positions.len() - 1]),
        };
        let mut scale = Self::values(low, high);
        let label = |x: &f64| x.to_string().replace('-', "−");
        let apart = positions.windows(2).all(|pair| scale.share(pair[1]) - scale.share(pair[0]) > LEAST_GAP);
        if positions.len() <= MOST && apart && positions.iter().all(|x| label(x).len() <= 7) {
            scale.ticks = positions.iter().map(|x| (*x, label(x))).collect();
        }
        scale
    }

    /// Share of the range that lies below `x`.
    pub(super) fn share(&self, x: f64) -> f64 {
        (x - self.low) / (self.high - self.low)
    }
}
