//! A model whose later blocks take over the keys and values of an earlier one, and all of whose
//! blocks take a share of a second embedding; and the same function without carried values, which
//! keeps all of that in a widened stream.

use randori_sdk::seam::{Architecture, AttnSpec, Backend, Binary, Id, OpResult, Unary};

use super::rope;

#[derive(Clone)]
pub struct Shared {
    pub vocab: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Features of a block's share of the second embedding.
    pub share: usize,
    pub layers: usize,
    /// Blocks that have keys and values of their own, the first ones.
    pub own: usize,
    /// Whether all is kept in the stream.
    pub widened: bool,
}

impl Shared {
    pub fn tiny() -> Self {
        Shared {
            vocab: 17,
            width: 16,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            share: 6,
            layers: 4,
            own: 2,
            widened: false,
        }
    }

    /// Numbers in a row of keys, or of values.
    pub fn keys(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Keys and values: of the block's own, or of the last block that has its own.
    fn keys_and_values(
        &self,
        g: &mut dyn Backend,
        (layer, stream, h): (usize, Id, Id),
    ) -> Result<[Id; 2], String> {
        let (at, keys) = (format!("layers.{layer}"), self.keys());
        if layer < self.own {
            let k = g.linear(&format!("{at}.k"), h, keys, false)?;
            let k = g.unflatten(k, self.kv_heads)?;
            let k = g.rope(k, &rope(self.head_dim / 2))?;
            let v = g.linear(&format!("{at}.v"), h, keys, false)?;
            let v = g.unflatten(v, self.kv_heads)?;
            return Ok([k, v]);
        }
        if !self.widened {
            return Ok([g.carried("keys")?, g.carried("values")?]);
        }
        let k = g.narrow(stream, self.width, keys)?;
        let v = g.narrow(stream, self.width + keys, keys)?;
        Ok([
            g.unflatten(k, self.kv_heads)?,
            g.unflatten(v, self.kv_heads)?,
        ])
    }
}

impl Architecture for Shared {
    fn name(&self) -> &str {
        "shared"
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn embed(&self, g: &mut dyn Backend, ids: Id) -> OpResult {
        let all = self.layers * self.share;
        let x = g.embed("embed", ids, self.vocab, self.width)?;
        let table = g.embed("shares", ids, self.vocab, all)?;
        let projected = g.linear("project", x, all, false)?;
        let shares = g.binary(Binary::Add, table, projected)?;
        if !self.widened {
            g.carry("shares", shares)?;
            return Ok(x);
        }
        let none = g.narrow(shares, 0, self.keys())?;
        let none = g.affine(none, 0.0, 0.0)?;
        g.concat(&[x, none, none, shares])
    }

    fn block(&self, g: &mut dyn Backend, layer: usize, stream: Id) -> OpResult {
        let (at, width) = (format!("layers.{layer}"), self.width);
        let (x, shares) = match self.widened {
            true => {
                let from = width + 2 * self.keys();
                let shares = g.narrow(stream, from, self.layers * self.share)?;
                (g.narrow(stream, 0, width)?, shares)
            }
            false => (stream, g.carried("shares")?),
        };
        let h = g.rms_norm(&format!("{at}.norm"), x, 1e-5, 0.0)?;
        let q = g.linear(&format!("{at}.q"), h, self.heads * self.head_dim, false)?;
        let q = g.unflatten(q, self.heads)?;
        let q = g.rope(q, &rope(self.head_dim / 2))?;
        let [k, v] = self.keys_and_values(g, (layer, stream, h))?;
        // of a block's window its keys know nothing
        let window = (layer % 2 == 1).then_some(5);
        let spec = AttnSpec {
            window,
            ..AttnSpec::default()
        };
        let y = g.attention(q, k, v, &spec)?;
        if layer + 1 == self.own && !self.widened {
            g.carry("keys", k)?;
            g.carry("values", v)?;
        }
        let y = g.flatten(y)?;
        let y = g.linear(&format!("{at}.o"), y, width, false)?;
        let x = g.binary(Binary::Add, x, y)?;
        let share = g.narrow(shares, layer * self.share, self.share)?;
        let gate = g.linear(&format!("{at}.gate"), x, self.share, false)?;
        let gate = g.unary(Unary::GeluTanh, gate)?;
        let y = g.binary(Binary::Mul, gate, share)?;
        let y = g.linear(&format!("{at}.up"), y, width, false)?;
        let x = g.binary(Binary::Add, x, y)?;
        if !self.widened {
            return Ok(x);
        }
        let (k, v) = (g.flatten(k)?, g.flatten(v)?);
        g.concat(&[x, k, v, shares])
    }

    fn head(&self, g: &mut dyn Backend, x: Id) -> OpResult {
        let x = match self.widened {
            true => g.narrow(x, 0, self.width)?,
            false => x,
        };
        let x = g.rms_norm("norm", x, 1e-5, 0.0)?;
        g.linear("head", x, self.vocab, false)
    }
}
