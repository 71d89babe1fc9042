//! The learning rate of each step: constant, linear or cosine, after a linear warm-up.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// It stays.
    #[default]
    Constant,
    /// A straight line down to the floor at the last step's end.
    Linear,
    /// Half a cosine down to the floor.
    Cosine,
}

/// A schedule over a known number of steps; the semantics of transformers'
/// `get_*_schedule_with_warmup`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// After the warm-up.
    pub kind: ScheduleKind,
    /// Share of all steps (rounded up) during which the rate climbs linearly from 0. With a warm-up
    /// the very first step's rate is therefore 0, as in transformers.
    pub warmup_ratio: f64,
}

impl Schedule {
    /// The rate of `step` (from 0) of `total`: at most `peak`, and not below `floor` once warmed
    /// up.
    pub fn rate(&self, peak: f64, floor: f64, step: usize, total: usize) -> f64 {
        let warmup = (self.warmup_ratio * total as f64).ceil() as usize;
        if step < warmup {
            return peak * step as f64 / warmup.max(1) as f64;
        }
        let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        let factor = match self.kind {
            ScheduleKind::Constant => return peak,
            ScheduleKind::Linear => (1.0 - progress).max(0.0),
            ScheduleKind::Cosine => {
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        };
        floor + (peak - floor) * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup_ratio: f64, floor: f64, total: usize) -> Vec<f64> {
        let schedule = Schedule { kind, warmup_ratio };
        (0..total)
            .map(|step| schedule.rate(2.0, floor, step, total))
            .collect()
    }

    /// The values of transformers' get_linear_schedule_with_warmup(opt, 2, 10) at lr 2.
    #[test]
    fn linear_with_warmup_is_transformers() {
        let expected = [0.0, 1.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25];
        for (rate, expected) in rates(ScheduleKind::Linear, 0.2, 0.0, 10)
            .iter()
            .zip(expected)
        {
            assert!((rate - expected).abs() < 1e-12, "{rate} {expected}");
        }
    }

    /// 0.5 (1 + cos(pi k / 8)) after two steps of warm-up.
    #[test]
    fn cosine_with_warmup_is_transformers() {
        let rates = rates(ScheduleKind::Cosine, 0.2, 0.0, 10);
        let root = 2f64.sqrt();
        let expected = [
            0.0,
            1.0,
            2.0,
            1.0 + (2.0 + root).sqrt() / 2.0,
            1.0 + root / 2.0,
        ];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rate} {expected}");
        }
        assert!((rates[6] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn constant_stays_and_a_floor_holds() {
        assert_eq!(rates(ScheduleKind::Constant, 0.0, 0.0, 3), [2.0; 3]);
        assert_eq!(
            rates(ScheduleKind::Constant, 0.5, 0.0, 4),
            [0.0, 1.0, 2.0, 2.0]
        );
        let floored = rates(ScheduleKind::Linear, 0.0, 1.0, 4);
        assert_eq!(floored, [2.0, 1.75, 1.5, 1.25]);
    }

    #[test]
    fn the_warmup_is_rounded_up() {
        assert_eq!(
            rates(ScheduleKind::Constant, 0.1, 0.0, 12)[..3],
            [0.0, 1.0, 2.0]
        );
    }
}
