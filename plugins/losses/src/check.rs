//! Tests of a loss: its value against the formula written out again in plain arithmetic, its slopes
//! against finite differences, on random pairs and at margins of ±10,000 nats.

use randori_sdk::{Error, Loss, Pair, PairLoss, Rows};

/// The numbers of one pair.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub y: f64,
    pub y_ref: f64,
    pub y_len: u32,
    pub g: f64,
    pub g_ref: f64,
    pub g_len: u32,
}

impl At {
    /// The pair with these log-ratios, on responses of 20 and 15 tokens.
    pub fn ratios(a: f64, b: f64) -> At {
        At {
            y: a - 30.0,
            y_ref: -30.0,
            y_len: 20,
            g: b - 25.0,
            g_ref: -25.0,
            g_len: 15,
        }
    }
    pub fn a(&self) -> f64 {
        self.y - self.y_ref
    }
    pub fn b(&self) -> f64 {
        self.g - self.g_ref
    }
    /// Per token.
    pub fn per_y(&self, x: f64) -> f64 {
        x / f64::from(self.y_len)
    }
    /// Per token.
    pub fn per_g(&self, x: f64) -> f64 {
        x / f64::from(self.g_len)
    }
}

/// log(1 + exp(x)) as one would type it, and its asymptote where that overflows.
pub fn softplus(x: f64) -> f64 {
    if x > 500.0 { x } else { (1.0 + x.exp()).ln() }
}

/// Value and slopes to log p(y) and log p(y').
pub fn eval<L: PairLoss>(loss: &L, at: &At) -> (f64, [f64; 2]) {
    let pair = Pair::new(
        (at.y, at.y_ref, at.y_len as usize),
        (at.g, at.g_ref, at.g_len as usize),
    );
    let loss = loss.loss(&pair);
    (loss.value, loss.slope)
}

/// Compares `loss` with `formula`, and its slopes with differences of `formula`.
pub fn check<L: PairLoss>(loss: &L, formula: impl Fn(&At) -> f64) {
    for at in grid() {
        let (value, slopes) = eval(loss, &at);
        let expected = formula(&at);
        close(
            "value",
            value,
            expected,
            1e-12 * (1.0 + expected.abs()),
            &at,
        );

        let to_y = slope(|d| formula(&At { y: at.y + d, ..at }));
        let to_g = slope(|d| formula(&At { g: at.g + d, ..at }));
        let noise = |slope: f64| 1e-6 * (1.0 + slope.abs()) + 1e-15 * expected.abs() / STEP;
        close("slope to log p(y)", slopes[0], to_y, noise(to_y), &at);
        close("slope to log p(y')", slopes[1], to_g, noise(to_g), &at);
    }
}

const STEP: f64 = 1e-4;

/// The derivative of `f` at 0 by a five-point difference, exact for polynomials up to the fourth
/// degree.
fn slope(f: impl Fn(f64) -> f64) -> f64 {
    (f(-2.0 * STEP) - 8.0 * f(-STEP) + 8.0 * f(STEP) - f(2.0 * STEP)) / (12.0 * STEP)
}

/// Compares one pair with numbers computed by Python's mpmath with 30 digits.
pub fn worked<L: PairLoss>(loss: &L, at: At, value: f64, slopes: [f64; 2]) {
    let (v, d) = eval(loss, &at);
    close("value", v, value, 1e-12 * (1.0 + value.abs()), &at);
    close(
        "slope to log p(y)",
        d[0],
        slopes[0],
        1e-12 * (1.0 + slopes[0].abs()),
        &at,
    );
    close(
        "slope to log p(y')",
        d[1],
        slopes[1],
        1e-12 * (1.0 + slopes[1].abs()),
        &at,
    );
}

pub fn close(what: &str, got: f64, expected: f64, tolerance: f64, at: &At) {
    assert!(
        (got - expected).abs() <= tolerance,
        "{what}: {got}, expected {expected} (± {tolerance:e}) at {at:?}"
    );
}

/// 2,000 random pairs: a third near step 0 (but not at it, where dpop has its kink), a third
/// ordinary, a third with log-ratios up to 10,000 nats.
pub fn grid() -> Vec<At> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut pairs = Vec::new();
    for i in 0..2000 {
        let reach = [0.1, 30.0, 10_000.0][i % 3];
        let mut side = || {
            let len = 1 + (uniform() * 200.0) as u32;
            let reference = -f64::from(len) * 3.0 * uniform();
            let ratio = 2.0 * uniform() - 1.0;
            (
                reference + reach * (ratio + 0.01 * ratio.signum()),
                reference,
                len,
            )
        };
        let ((y, y_ref, y_len), (g, g_ref, g_len)) = (side(), side());
        pairs.push(At {
            y,
            y_ref,
            y_len,
            g,
            g_ref,
            g_len,
        });
    }
    pairs
}

/// A step's pairs, (log p, opponent's log p) of y and of y': each pair's loss and slopes, as the
/// host would get them.
pub fn step<L: Loss>(
    loss: &L,
    pairs: &[[(f64, f64); 2]],
) -> Result<(Vec<f64>, Vec<[f64; 2]>), Error> {
    let all = || pairs.iter().flatten();
    let (logp, ref_logp): (Vec<f64>, Vec<f64>) = all().copied().unzip();
    let rows = Rows {
        groups: pairs.len(),
        group: &(0..2 * pairs.len() as u32)
            .map(|i| i / 2)
            .collect::<Vec<_>>(),
        role: &all()
            .enumerate()
            .map(|(i, _)| i as u32 % 2)
            .collect::<Vec<_>>(),
        logp: &logp,
        ref_logp: &ref_logp,
        len: &vec![10; logp.len()],
        reward: None,
        progress: 0.0,
    };
    let (value, slopes) = randori_sdk::loss::evaluate(loss, &rows)?;
    Ok((value, slopes.chunks(2).map(|s| [s[0], s[1]]).collect()))
}
