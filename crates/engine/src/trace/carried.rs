//! Values that cross blocks, on shapes.

use randori_sdk::seam::{Id, OpResult};

use super::{Scope, TracedCarried, Tracer};
use crate::tape::rules;

impl Tracer {
    /// A run that begins at block `layer`, before which this is carried.
    pub(super) fn behind(carried: &[TracedCarried], layer: usize) -> Tracer {
        let mut tracer = Tracer::default();
        let before = carried.iter().filter(|c| c.layer < Some(layer));
        tracer.trace.carried = before.cloned().collect();
        tracer
    }

    /// Hands a value on to later calls.
    pub(super) fn hand_on(&mut self, name: &str, x: Id) -> OpResult {
        let shape = self.by_token("carry", x)?;
        self.crosses("carry")?;
        let carried = &mut self.trace.carried;
        rules::carry(name, carried.iter().any(|c| c.name == name))?;
        self.carries.push((carried.len(), x));
        carried.push(TracedCarried {
            layer: self.layer,
            ..TracedCarried::outside(name, &shape)
        });
        self.save(&[x]);
        Ok(x)
    }

    /// The value that an earlier call has handed on; its memory is no value's of this call.
    pub(super) fn take_over(&mut self, name: &str) -> OpResult {
        self.crosses("carried")?;
        let at = self.trace.carried.iter().position(|c| c.name == name);
        let at = at.filter(|at| self.carries.iter().all(|(own, _)| own != at));
        let found = at.and_then(|at| self.trace.carried.get(at));
        let found = found.ok_or_else(|| rules::not_carried(name))?;
        let (shape, kept) = (found.shape.clone(), found.kept);
        let id = self.push(shape)?;
        if let Some(value) = self.values.last_mut() {
            (value.memory, value.kept) = (0, kept);
        }
        Ok(id)
    }

    fn crosses(&self, op: &str) -> Result<(), String> {
        rules::crosses(op, matches!(self.scope, Scope::Embedding | Scope::Block))
    }

    /// Says of the values that this call has handed on where the cache keeps them.
    pub(super) fn note_kept(&mut self) {
        for (at, id) in &self.carries {
            let value = self.values.get(*id as usize - 1);
            if let (Some(value), Some(carried)) = (value, self.trace.carried.get_mut(*at)) {
                carried.kept = value.kept;
            }
        }
    }

    /// Whether a call of attention caches these keys and values: the first one does.
    pub(super) fn caches(&mut self, k: Id, v: Id) -> bool {
        let kept = |id: Id, part: usize| self.values.get(id as usize - 1)?.kept[part];
        let held = kept(k, 0);
        if held.is_some() && held == kept(v, 1) {
            return false;
        }
        self.cached += 1;
        for (part, id) in [k, v].into_iter().enumerate() {
            if let Some(value) = self.values.get_mut(id as usize - 1) {
                value.kept[part] = Some(self.cached);
            }
        }
        true
    }
}
