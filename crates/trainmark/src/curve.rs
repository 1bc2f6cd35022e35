//! How loss and metrics developed, with limited memory however long the training was.

use record::CurvePoint;
use record::number::count;

/// Points that are kept; of more, every second one goes.
const MOST_POINTS: usize = 4000;

/// How loss and metrics developed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<CurvePoint>,
    /// Points that there were.
    all: usize,
    /// Each so-manieth point is kept, and the last.
    stride: usize,
    since_kept: usize,
    /// Seconds of the epochs so far.
    pub seconds: f64,
}

impl Curve {
    /// A position that is as the last point's adds to that.
    pub fn add(&mut self, point: CurvePoint) {
        let same = |last: &CurvePoint| {
            (last.step, last.epoch) == (point.step, point.epoch)
                && (last.loss.is_none() || point.loss.is_none())
                && last.metrics.keys().all(|name| !point.metrics.contains_key(name))
        };
        if let Some(last) = self.points.last_mut().filter(|last| same(last)) {
            last.loss = last.loss.or(point.loss);
            last.seconds = point.seconds.or(last.seconds);
            last.metrics.extend(point.metrics);
            return;
        }
        self.all += 1;
        self.since_kept += 1;
        if self.since_kept < self.stride {
            // The last one stands for those that are passed over.
            self.points.pop();
        } else {
            self.since_kept = 0;
        }
        self.points.push(point);
        if self.points.len() > MOST_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = 2 * self.stride.max(1);
        }
    }

    /// Says how many points are kept, if not all are.
    pub fn thinned(&self) -> Option<String> {
        let (kept, all) = (self.points.len(), count(self.all, "point"));
        (self.stride > 1)
            .then(|| format!("its curve keeps {kept} of {all}: evenly spaced ones and the last"))
    }

    pub fn points(&self) -> &[CurvePoint] {
        &self.points
    }

    /// The last value of a metric.
    pub fn last(&self, metric: &str) -> Option<f64> {
        self.points.iter().rev().find_map(|point| point.metrics.get(metric).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_ends() {
        let mut curve = Curve::default();
        for step in 0..100_000 {
            curve.add(CurvePoint { step: Some(step), ..CurvePoint::default() });
        }
        let points = curve.points();
        assert_eq!(curve.all, 100_000);
        assert!((MOST_POINTS / 2..=MOST_POINTS).contains(&points.len()), "{}", points.len());
        assert_eq!((points[0].step, points.last().unwrap().step), (Some(0), Some(99_999)));
        assert!(points.windows(2).all(|two| two[0].step < two[1].step));
    }
}
