//! [`Experts`]: a mixture of gated perceptrons, which stands where a dense block has one.

use crate::{Config, Graph, Result, Route, Tensor};

/// Gated perceptrons without biases, of which a linear router chooses a few for every token:
/// y = Σ weight·down(silu(gate(x))·up(x)) over the chosen ones.
///
/// Weights are `{module}.{router}` (experts, width) and, of expert e, `{module}.experts.{e}.{name}`
/// for each of the three projections.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Name of the module within the block (`mlp`).
    pub module: &'static str,
    /// Name of the router within the module.
    pub router: &'static str,
    /// Names of an expert's gate, of its other input, and of its output.
    pub projections: [&'static str; 3],
    /// Number of experts.
    pub count: usize,
    /// Features of the residual stream.
    pub width: usize,
    /// Features inside each expert.
    pub ffn: usize,
    /// How a token's experts are chosen and weighted.
    pub route: Route,
}

impl Experts {
    /// Most experts, against a damaged configuration that says billions: each has weights of its
    /// own to ask for.
    const MOST: usize = 4096;

    /// Number of experts, under either of transformers' names; `absent` where there is neither.
    ///
    /// # Errors
    /// Two keys that differ, no expert, or more than there can be.
    pub fn number(c: &Config, absent: usize) -> Result<usize> {
        const KEYS: [&str; 2] = ["num_local_experts", "num_experts"];
        let found = [c.usize_opt(KEYS[0])?, c.usize_opt(KEYS[1])?];
        let (key, number) = match found {
            [Some(local), Some(other)] if local != other => {
                let what = format!("is {local}, and {} is {other}", KEYS[1]);
                return Err(c.error(KEYS[0], &what));
            }
            [Some(number), _] => (KEYS[0], number),
            [None, Some(number)] => (KEYS[1], number),
            [None, None] => (KEYS[0], absent),
        };
        match number {
            1..=Self::MOST => Ok(number),
            _ => {
                let what = format!("is {number}, not 1 to {}", Self::MOST);
                Err(c.error(key, &what))
            }
        }
    }

    /// Experts per token: `num_experts_per_tok`, or `absent`.
    ///
    /// # Errors
    /// None, or more than there are experts.
    pub fn per_token(c: &Config, absent: usize, count: usize) -> Result<usize> {
        let key = "num_experts_per_tok";
        Self::some_of(c, key, c.usize_or(key, absent)?, count)
    }

    /// The same under another key.
    ///
    /// # Errors
    /// As there, and without that key.
    pub fn per_token_of(c: &Config, key: &str, count: usize) -> Result<usize> {
        Self::some_of(c, key, c.usize(key)?, count)
    }

    fn some_of(c: &Config, key: &str, chosen: usize, count: usize) -> Result<usize> {
        match chosen == 0 || chosen > count {
            true => Err(c.error(key, &format!("is {chosen} of {count} experts"))),
            false => Ok(chosen),
        }
    }

    /// The mixture, within a block's scope: (tokens, width) -> (tokens, width).
    pub fn apply<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(self.module);
        let router = g.linear(self.router, x, self.count); // (tokens, experts)
        let [gate, up, down] = self.projections;
        g.moe(router, x, self.route, |e, rows| {
            let g = g.scope(format_args!("experts.{e}"));
            let inside = g.linear(gate, rows, self.ffn).silu() * g.linear(up, rows, self.ffn);
            g.linear(down, inside, self.width)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(usize, usize)> {
        let c = Config::parse(json)?;
        let count = Experts::number(&c, 8)?;
        Ok((count, Experts::per_token(&c, 2, count)?))
    }

    #[test]
    fn both_names_of_the_number_are_read() {
        assert_eq!(read("{}"), Ok((8, 2)));
        let keys = r#"{"num_experts": 4, "num_experts_per_tok": 3}"#;
        assert_eq!(read(keys), Ok((4, 3)));
        assert_eq!(read(r#"{"num_local_experts": 5}"#), Ok((5, 2)));
        let both = r#"{"num_experts": 4, "num_local_experts": 4}"#;
        assert_eq!(read(both), Ok((4, 2)));
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        for (json, says) in [
            (
                r#"{"num_experts": 4, "num_local_experts": 5}"#,
                "`num_local_experts` is 5, and num_experts is 4",
            ),
            (r#"{"num_experts": 0}"#, "`num_experts` is 0, not 1 to 4096"),
            (
                r#"{"num_local_experts": 1e9}"#,
                "`num_local_experts` is 1000000000",
            ),
            (
                r#"{"num_experts": 4, "num_experts_per_tok": 5}"#,
                "`num_experts_per_tok` is 5 of 4 experts",
            ),
            (r#"{"num_experts_per_tok": 0}"#, "is 0 of 8 experts"),
        ] {
            let error = read(json).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{error}");
        }
    }
}
