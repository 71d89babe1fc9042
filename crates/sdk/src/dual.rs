//! Forward-mode automatic differentiation: a number with its derivatives to a pair's two log-probs.
//!
//! A loss's formula is written once, and yields value and exact slopes together, so that they
//! cannot disagree.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A value with its slopes (derivatives) to the real and to the generated response's log-prob.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dual {
    /// The number.
    pub value: f64,
    /// d value / d (logp real, logp generated).
    pub slope: [f64; 2],
}

impl Dual {
    /// A number that depends on neither log-prob.
    pub const fn constant(value: f64) -> Self {
        Dual {
            value,
            slope: [0.0; 2],
        }
    }

    /// The real response's log-prob itself: slope 1 to it.
    pub const fn real(value: f64) -> Self {
        Dual {
            value,
            slope: [1.0, 0.0],
        }
    }

    /// The generated response's log-prob itself: slope 1 to it.
    pub const fn generated(value: f64) -> Self {
        Dual {
            value,
            slope: [0.0, 1.0],
        }
    }

    /// `f(x)` by the chain rule, given `f`'s value and derivative at x, for functions that are
    /// missing here.
    pub fn chain(self, value: f64, derivative: f64) -> Self {
        // a slope of exactly zero stays zero, also where f has a vertical tangent
        let times = |s: f64| if s == 0.0 { 0.0 } else { s * derivative };
        Dual {
            value,
            slope: [times(self.slope[0]), times(self.slope[1])],
        }
    }

    /// e^x
    pub fn exp(self) -> Self {
        let e = self.value.exp();
        self.chain(e, e)
    }

    /// Natural logarithm.
    pub fn ln(self) -> Self {
        self.chain(self.value.ln(), 1.0 / self.value)
    }

    /// ln(1 + x), exact near 0.
    pub fn ln_1p(self) -> Self {
        self.chain(self.value.ln_1p(), 1.0 / (1.0 + self.value))
    }

    /// √x
    pub fn sqrt(self) -> Self {
        let r = self.value.sqrt();
        self.chain(r, 0.5 / r)
    }

    /// x²
    pub fn square(self) -> Self {
        self.chain(self.value * self.value, 2.0 * self.value)
    }

    /// x^n
    pub fn powi(self, n: i32) -> Self {
        self.chain(
            self.value.powi(n),
            f64::from(n) * self.value.powi(n.saturating_sub(1)),
        )
    }

    /// x^p
    pub fn powf(self, p: f64) -> Self {
        self.chain(self.value.powf(p), p * self.value.powf(p - 1.0))
    }

    /// tanh x
    pub fn tanh(self) -> Self {
        let t = self.value.tanh();
        self.chain(t, 1.0 - t * t)
    }

    /// 1 / (1 + e^-x)
    pub fn sigmoid(self) -> Self {
        let s = sigmoid(self.value);
        self.chain(s, s * sigmoid(-self.value))
    }

    /// ln sigmoid(x), without overflow on either side.
    pub fn log_sigmoid(self) -> Self {
        let x = self.value;
        // ln σ(x) = min(x, 0) - ln(1 + e^-|x|);  d/dx = σ(-x)
        self.chain(x.min(0.0) - (-x.abs()).exp().ln_1p(), sigmoid(-x))
    }

    /// ln(1 + e^x), without overflow on either side.
    pub fn softplus(self) -> Self {
        -(-self).log_sigmoid()
    }

    /// max(0, x); slope 0 at the kink.
    pub fn relu(self) -> Self {
        self.max(0.0)
    }

    /// |x|; slope 0 at the kink.
    pub fn abs(self) -> Self {
        let sign = if self.value == 0.0 {
            0.0
        } else {
            self.value.signum()
        };
        self.chain(self.value.abs(), sign)
    }

    /// The larger of the two; `other` at a tie.
    pub fn max(self, other: impl Into<Dual>) -> Self {
        let other = other.into();
        if self.value > other.value || self.value.is_nan() {
            self
        } else {
            other
        }
    }

    /// The smaller of the two; `other` at a tie.
    pub fn min(self, other: impl Into<Dual>) -> Self {
        let other = other.into();
        if self.value < other.value || self.value.is_nan() {
            self
        } else {
            other
        }
    }

    /// The value without its slopes (stop-gradient). The host's slope check refuses a loss whose
    /// slopes this makes wrong.
    pub fn detach(self) -> f64 {
        self.value
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Dual::constant(value)
    }
}

impl PartialEq<f64> for Dual {
    fn eq(&self, other: &f64) -> bool {
        self.value == *other
    }
}

impl PartialOrd for Dual {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl PartialOrd<f64> for Dual {
    fn partial_cmp(&self, other: &f64) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(other)
    }
}

impl Neg for Dual {
    type Output = Dual;
    fn neg(self) -> Dual {
        Dual {
            value: -self.value,
            slope: self.slope.map(|s| -s),
        }
    }
}

/// One binary operator for dual-dual, dual-number and number-dual, from its value and its two
/// partial derivatives.
macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $value:expr, $da:expr, $db:expr) => {
        #[allow(clippy::suspicious_arithmetic_impl)] // derivatives need the other operators
        impl $trait for Dual {
            type Output = Dual;
            fn $method(self, other: Dual) -> Dual {
                let ($a, $b) = (self.value, other.value);
                let (left, right) = (self.chain($value, $da), other.chain($value, $db));
                Dual {
                    value: $value,
                    slope: [
                        left.slope[0] + right.slope[0],
                        left.slope[1] + right.slope[1],
                    ],
                }
            }
        }
        impl $trait<f64> for Dual {
            type Output = Dual;
            fn $method(self, other: f64) -> Dual {
                $trait::$method(self, Dual::constant(other))
            }
        }
        impl $trait<Dual> for f64 {
            type Output = Dual;
            fn $method(self, other: Dual) -> Dual {
                $trait::$method(Dual::constant(self), other)
            }
        }
    };
}

operator!(Add, add, |a, b| a + b, 1.0, 1.0);
operator!(Sub, sub, |a, b| a - b, 1.0, -1.0);
operator!(Mul, mul, |a, b| a * b, b, a);
operator!(Div, div, |a, b| a / b, 1.0 / b, -a / (b * b));

#[cfg(test)]
mod tests {
    use super::*;

    /// Both slopes of `f` against central differences.
    fn check(name: &str, f: impl Fn(Dual, Dual) -> Dual, real: f64, generated: f64) {
        let got = f(Dual::real(real), Dual::generated(generated));
        let at = |r, g| f(Dual::constant(r), Dual::constant(g)).value;
        let h = 1e-5;
        let want = [
            (at(real + h, generated) - at(real - h, generated)) / (2.0 * h),
            (at(real, generated + h) - at(real, generated - h)) / (2.0 * h),
        ];
        for (got, want) in got.slope.into_iter().zip(want) {
            assert!(
                (got - want).abs() < 1e-7 * (1.0 + want.abs()),
                "{name}: slope {got}, finite difference {want}"
            );
        }
    }

    #[test]
    fn slopes_are_finite_differences() {
        for (a, b) in [(0.7, 1.9), (2.3, 0.4), (1.1, 3.0)] {
            check("add", |x, y| x + y * 2.0 + 1.0, a, b);
            check("sub", |x, y| 1.0 - x - y, a, b);
            check("mul", |x, y| x * y * 3.0, a, b);
            check("div", |x, y| x / y + 2.0 / x, a, b);
            check("neg", |x, y| -x * y, a, b);
            check("exp", |x, y| (x - y).exp(), a, b);
            check("ln", |x, y| (x * y).ln() + (x * y).ln_1p(), a, b);
            check("sqrt", |x, y| (x + y).sqrt(), a, b);
            check("square", |x, y| (x - y).square(), a, b);
            check("powi", |x, y| (x - y).powi(3), a, b);
            check("powf", |x, y| (x + y).powf(1.7), a, b);
            check("tanh", |x, y| (x - y).tanh(), a, b);
            check("sigmoid", |x, y| (x - y).sigmoid(), a, b);
            check("log_sigmoid", |x, y| (x - y).log_sigmoid(), a, b);
            check("softplus", |x, y| (x - y).softplus(), a, b);
            check("relu", |x, y| (x - y).relu() + (y - x).relu() * 2.0, a, b);
            check("abs", |x, y| (x - y).abs(), a, b);
            check("max", |x, y| (x * y).max(2.0).min(x + y), a, b);
        }
    }

    #[test]
    fn log_sigmoid_is_exact_far_out() {
        let far = Dual::real(-800.0).log_sigmoid();
        assert_eq!((far.value, far.slope[0]), (-800.0, 1.0));
        let far = Dual::real(800.0).log_sigmoid();
        assert_eq!((far.value, far.slope[0]), (0.0, 0.0));
        assert_eq!(Dual::real(0.0).log_sigmoid().value, -std::f64::consts::LN_2);
    }
}
